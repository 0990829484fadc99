"""Faults that every demo injects, beside those of chance: some alone, some together."""

import json
import urllib.request
from typing import NamedTuple

from simulator import control

FROM_SHARE = 0.5
"""Of the demo's seconds: the devices are warm by then."""
LASTS_SHARE = 0.3


class Injection(NamedTuple):
    """A scenario for a device."""

    device: int
    scenario: str
    field: str = "sensor1"
    magnitude: float | None = None


ALONE = (
    Injection(3, "fault"),
    Injection(11, "step", "sensor2", -6.0),
    Injection(23, "stuck", "motor2"),
    Injection(42, "drift", "sensor3", 0.6),
)
TOGETHER = tuple(Injection(device, "fault") for device in range(61, 73))
"""A cause that hits twelve devices at once."""


def inject(simulator_url: str, devices: int, ticks: int) -> int:
    """Begin them; how many.

    Args:
        simulator_url: Of its API.
        devices: The simulator has 1 to this.
        ticks: How long they last.
    """
    wanted = [each for each in (*ALONE, *TOGETHER) if each.device <= devices]
    for each in wanted:
        body = {"scenario": each.scenario, "field": each.field, "for_ticks": ticks}
        if each.magnitude is not None:
            body["magnitude"] = each.magnitude
        request = urllib.request.Request(  # noqa: S310
            f"{simulator_url}{control.BASE}/{each.device}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    return len(wanted)
