"""How a service works through its shards: the pure step and the stages that drive it."""
