"""The transform service: raw records in, clean readings out."""
