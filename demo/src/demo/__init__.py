"""The whole path on one machine: started, shown, stopped, audited."""
