"""What the Telemill services share; docs/architecture.md says where to begin."""
