"""Collects readings, by polling and by HTTP push, and writes them to the raw stream.

Read it the way a reading goes:

1. The ways in. `poller` asks devices (when: `devices`; over what: `api`, behind `breaker`; which
   of them are this replica's: `leases`, by the rules of `fleet`). `push` answers POST requests
   (`auth`, `bodies`, `problem`; described by `openapi`). `replay` loads files (`tables`).
2. `core`: from bodies to items, slots and raw records. Pure.
3. `outbox`: items wait for others of their slot. `replay` has no need to wait and skips it.
4. `telemill.kinesis.writer`: to Kinesis, and back with the acknowledgement.

`wiring` builds all of it from `settings`, `app` runs and drains it, `__main__` is the command line.
"""
