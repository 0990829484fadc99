"""`telemill doctor`: is everything there that the services need, and does the data flow?

Read-only. It takes the settings of the services from the environment, so it looks at what they
look at. Reading order: `finding`, `plant`, then any check; `command` puts them together.
"""
