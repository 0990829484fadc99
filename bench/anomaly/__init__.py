"""Scores the public anomaly corpora with the service's own code: `make anomaly-bench`."""
