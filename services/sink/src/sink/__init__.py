"""Writes readings and scores to Parquet on S3, each row exactly once.

Reading order: `core` and `parquet` (pure), `lane` (one shard's open cut; pure), `cutting` (how a
cut becomes objects and a position), `stage` (all shards), `lake` (S3), `catalog` (Glue), `app`.
"""
