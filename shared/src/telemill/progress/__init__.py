"""Who owns a shard, how far it is, and with which state: the heart of the delivery promise.

`rules` decides and does no I/O; `store` and `snapshots` keep items and large states; `claims` is
what a shard's owner works with. docs/delivery.md explains the protocol.
"""
