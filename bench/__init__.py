"""Measures speed, size and memory: `python -m bench` or `make bench`."""
