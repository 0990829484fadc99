"""Collects readings, by polling and by HTTP push, and writes them to the raw stream.

Reading order: `core` (bodies to raw records), `outbox`, then the ways in: `poller` with `devices`,
`breaker`, `api` and `leases`; `push` with `auth` and `problem`; `replay`. `app` joins them.
"""
