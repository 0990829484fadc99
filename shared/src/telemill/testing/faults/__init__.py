"""A proxy in front of any AWS emulator that makes it as unkind as the real service can be.

`running` starts it as a process of its own; services reach it with AWS_ENDPOINT_URL only. What it
does to them is a `Plan`, changed at run time by `Proxy.set_plan` or over HTTP (`/_faults`).
"""

from telemill.testing.faults.plan import Plan, PlanError
from telemill.testing.faults.process import Proxy, running

__all__ = ["Plan", "PlanError", "Proxy", "running"]
