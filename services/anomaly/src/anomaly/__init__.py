"""Scores readings per device and raises alerts.

Reading order: `core` (one step over a chunk), `detector` (scores), `episodes` (alerts), `state`
(what is remembered); then `alerts` (SNS), `app`, `settings`, `__main__`.
"""
