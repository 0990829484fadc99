"""Where a device is going, as `GET /v1/devices/{device_id}/forecast` answers it in JSON. Pure."""

from typing import Any

from anomaly import messages
from anomaly.forecast import LEVELS
from anomaly.limits import Outlook
from telemill.contract import Contract


def document(device_id: str, outlook: Outlook, contract: Contract) -> dict[str, Any]:
    """Forecasts by field and horizon, and the times to limits.

    Args:
        device_id: Canonical device key.
        outlook: Of that device.
        contract: Names the fields and their units.
    """
    return {
        "device_id": device_id,
        "last_reading": messages.iso(outlook.last_us),
        "fields": {
            measure.column: {
                "unit": measure.unit,
                "forecast": [
                    _at(outlook, horizon, place) for horizon in range(len(outlook.horizons_seconds))
                ],
                "limit": _limit(outlook, place),
            }
            for place, measure in enumerate(contract.measures)
        },
    }


def _at(outlook: Outlook, horizon: int, place: int) -> dict[str, Any]:
    median, low, high = (part[0, horizon, place] for part in outlook.prediction)
    intervals = {
        f"{level:.0%}": [messages.number(low[at]), messages.number(high[at])]
        for at, level in enumerate(LEVELS)
    }
    return {
        "in_seconds": float(outlook.horizons_seconds[horizon]),
        "median": messages.number(median),
        "intervals": intervals,
    }


def _limit(outlook: Outlook, place: int) -> dict[str, float | None] | None:
    """None when no trend leads to a limit."""
    seconds, earliest, latest, limit = (messages.number(part[0, place]) for part in outlook.times)
    if seconds is None:
        return None
    return {
        "limit": limit,
        "in_seconds": seconds,
        "earliest_seconds": earliest,
        "latest_seconds": latest,
    }
