"""The transform service: raw records in, clean readings out.

Reading order: `core` (one step over a chunk), `decode` (JSON to columns; `items` is its slow path),
`validate` (ranges, sentinels, quality bits), `dedupe` (what was seen), `batches` (one per slot);
then `app`, `settings`, `__main__`.
"""
