"""The `telemill` command and its sub-commands."""
