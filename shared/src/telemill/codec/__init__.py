"""Bytes on the streams: raw records in, internal batches in and out. No I/O."""
