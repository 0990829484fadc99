"""Kinesis streams: how records move, and why none is lost."""
