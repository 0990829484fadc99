"""Writes readings and scores to Parquet on S3, each row exactly once.

Reading order: `core` and `parquet` (pure), `lane` (one shard's open cut; pure), `cutting` (how a
cut becomes objects and a position), `stage` (all shards), `lake` (S3), `catalog` (Glue), `app`.
"""

import os

# Arrow reads this once, when it is first imported (`pa.set_memory_pool` comes too late for its
# kernels). Its own allocator keeps the pages of freed buffers, and the peak is some 35 MB higher:
# ARROW_DEFAULT_MEMORY_POOL=mimalloc python -m bench full-path-memory
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
