"""Scores readings per device, forecasts them and raises alerts.

Reading order: `core` (one step over a chunk); `detection` (scores); `alerting` over `episodes`,
`stories` and `groups` (what is told), `messages` and `wording` (how), `alert_rows` (the table);
`forecast` over `trends` and `daily`, `limits` (warnings before a limit); `state` (what is
remembered). Then the edges: `alerts` (SNS), `parts` (groups over shards), `mutes` and `silence`,
`api` and `outlooks` (HTTP), `app`, `settings`, `__main__`.
"""
