"""Scores readings per device and raises alerts."""
