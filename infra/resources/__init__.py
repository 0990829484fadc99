"""Telemill's AWS resources, one module a concern; `stacks.py` puts them together.

Reading order: `deployments` (what runs), `lake`, `streams` and `catalog` (what it works on),
`access` and `roles` (who may do what), `network`, `ecs`, `scaling`, `eks`, `monitoring`,
`governance`.
What things are called is taken from the services' own code.
"""
