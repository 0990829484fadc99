"""The dated price list."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one region.

    Attributes:
        region: Where they hold.
        as_of: Day they were taken, as YYYY-MM-DD.
        note: How they were taken.
        usd: Service to name to US dollars.
    """

    region: str
    as_of: str
    note: str
    usd: Mapping[str, Mapping[str, float]]

    def of(self, service: str, name: str) -> float:
        """One price, in US dollars."""
        return self.usd[service][name]


def load() -> Prices:
    """The list that comes with the package."""
    text = (resources.files("telemill.cost") / "prices.yaml").read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    usd = {
        service: {name: float(price) for name, price in prices.items()}
        for service, prices in read.items()
        if isinstance(prices, dict)
    }
    return Prices(str(read["region"]), str(read["as_of"]), str(read["note"]), usd)
