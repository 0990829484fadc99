"""Who decides which shards a worker reads."""
