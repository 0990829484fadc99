"""What a fleet costs a month on AWS: `telemill cost`.

`model` says how much of everything a fleet takes, from measured sizes and rates; `prices.yaml` what
that costs. Both are estimates: docs/cost.md says what is left out.
"""
