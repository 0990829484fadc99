"""What is done to the tables beside the live services: backfill and quarantine replay.

Reading order: `core` (which rows a table lacks; pure), `derive` (records and items to rows; pure),
`lake` (objects on S3), `additions` (how rows get in, exactly once), `live` (what the live services
have passed), `raw_range` and `backfill`, `quarantined` and `replay`, then the two commands.
docs/backfill.md says why it is sound.
"""

# Before Arrow is imported: the sink sets its allocator.
import sink  # noqa: F401
