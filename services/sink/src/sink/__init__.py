"""Writes readings and scores to Parquet on S3, each row exactly once.

Reading order: `core` and `parquet` (pure), `lane` (one shard's open cut; pure), `cutting` (how a
cut becomes objects and a position), `stage` (all shards), `lake` (S3), `catalog` (Glue), `app`.
"""

import os

# Arrow reads this once, when it is first imported (`pa.set_memory_pool` comes too late for its
# kernels). Its own allocator keeps the pages of freed buffers: at 10,000 readings a second the
# process peaked at 243 MB with it and at 206 MB without, for 2 to 6 % of the core's speed.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
