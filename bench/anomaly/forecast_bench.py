"""How good `anomaly.forecast` is: `make forecast-bench [NAB=dir] [SKAB=dir]`.

Forecasts of recordings and of the synthetic fleet are compared with the last value (naive) and the
value of the same time on the day before (seasonal naive); the intervals with the share of values
that fall into them; the time to a limit with when the limit was reached.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from anomaly import forecast
from anomaly.detection.interface import Batch
from bench.anomaly import fleet, forecast_limits, layout, pictures
from telemill import contract, errors

ROOT = Path(__file__).parents[2]
HORIZONS = np.array([1, 6, 60, 360])
DAY_SECONDS = 86400.0
FIRST_ROW = 200
LEAST = 5
"""Forecasts of a series at a horizon that are worth a mean."""
LEAST_WIDTH = 120

Floats = npt.NDArray[np.float64]


class Series(NamedTuple):
    """Several devices side by side.

    Attributes:
        values: Rows by devices by fields.
        event_us: Rows by devices; 0 where there is no reading.
        interval_seconds: Of the readings.
        every: Rows between two forecasts.
        daily: Long enough to compare with the day before.
    """

    values: Floats
    event_us: npt.NDArray[np.int64]
    interval_seconds: float
    every: int
    daily: bool


class Accuracy(NamedTuple):
    """One horizon; per device and field but for the shares.

    Attributes:
        ours: Mean absolute error relative to the last value's.
        seasonal: The same of the day before.
        inside: Share of the values inside each interval.
    """

    ours: Floats
    seasonal: Floats
    inside: Floats


def main(argv: Sequence[str] | None = None) -> int:
    """Forecast what is given and the synthetic fleet; 2 when a folder cannot be read."""
    parser = argparse.ArgumentParser(prog="forecast-bench", description=__doc__)
    parser.add_argument("--nab", type=Path, help="folder in NAB's layout")
    parser.add_argument("--skab", type=Path, help="folder in SKAB's layout")
    parser.add_argument("--results", type=Path, default=Path("build/anomaly-bench/forecast"))
    given = parser.parse_args(argv)
    try:
        corpora = [*_corpora(given.nab, given.skab)]
    except errors.ConfigurationError as error:
        sys.stderr.write(f"forecast-bench: {error}\n")
        return 2
    rows = []
    for name, parts in corpora:
        found = [accuracy(part) for part in parts]
        rows += _rows(name, found)
    _show("Forecasts", ACCURACY_HEAD, rows, given.results / "accuracy.csv")
    ramps = forecast_limits.ramps()
    limits = forecast_limits.rows(ramps)
    _show("Time to a limit", forecast_limits.HEAD, limits, given.results / "limits.csv")
    pictures.time_to_limit(ramps, given.results / "limit.png")
    pictures.intervals(corpora[1][1][0].values, given.results / "intervals.png")
    Console().print(f"results in {given.results}")
    return 0


ACCURACY_HEAD = (
    "series",
    "readings ahead",
    "error / naive, median",
    "worst",
    "better than naive",
    "seasonal naive / naive",
    "better than seasonal",
    "inside 80 %",
    "inside 95 %",
)


def _corpora(nab: Path | None, skab: Path | None) -> Iterator[tuple[str, list[Series]]]:
    made = fleet.three_days()
    for works, name in ((False, "synthetic, steady"), (True, "synthetic, shift")):
        chosen = [each for each in made.of_group("well").tolist() if made.shift[each] == works]
        # Before all of them fail.
        values = made.values[: fleet.FLEET_WIDE_AT, chosen]
        ticks = np.arange(len(values), dtype=np.int64)[:, None]
        event_us = fleet.START_US + ticks * int(fleet.INTERVAL_SECONDS * 1e6)
        event_us = np.broadcast_to(event_us, values.shape[:2])
        yield name, [Series(values, event_us, fleet.INTERVAL_SECONDS, 61, daily=True)]
    if nab is not None:
        yield "NAB", [*_recordings(nab, "timestamp", ["value"], 11, daily=True)]
    if skab is not None:
        readings = contract.load(ROOT / "contracts" / "skab.yaml")
        measures = [field.name for field in readings.measures]
        yield "SKAB", [*_recordings(skab, readings.time.name, measures, 5, daily=False)]


def _recordings(
    folder: Path, time_column: str, measures: Sequence[str], every: int, *, daily: bool
) -> Iterator[Series]:
    """Recordings of one interval side by side."""
    by_interval: dict[int, list[layout.Recording]] = {}
    for each in layout.recordings(folder, time_column, measures):
        interval = round(float(np.median(np.diff(each.event_us))) / 1e6)
        by_interval.setdefault(interval, []).append(each)
    for interval, parts in by_interval.items():
        rows = max(len(each.values) for each in parts)
        values = np.full((rows, len(parts), len(measures)), np.nan)
        event_us = np.zeros((rows, len(parts)), np.int64)
        for column, each in enumerate(parts):
            values[: len(each.values), column] = each.values
            event_us[: len(each.values), column] = each.event_us
        yield Series(values, event_us, float(interval), every, daily)


def accuracy(series: Series) -> list[Accuracy]:
    """Every horizon, after the first rows; each forecast knows only what came before."""
    model = forecast.Forecast(forecast.Tuning(interval_seconds=series.interval_seconds))
    count, devices, fields = series.values.shape
    state = model.begin(devices, fields)
    everyone = np.arange(devices)
    origins, said = [], []
    for row in range(count):
        live = np.flatnonzero(series.event_us[row])
        batch = Batch(series.values[row, live], live, series.event_us[row, live])
        state = model.learn(batch, state)
        if row >= FIRST_ROW and row % series.every == 0:
            horizons = HORIZONS * series.interval_seconds
            said.append(model.predict(state, everyone, horizons))
            origins.append(row)
    median, low, high = (np.stack(parts) for parts in zip(*said, strict=True))
    last = _last_known(series.values)
    at = np.array(origins)
    return [
        _at_horizon(
            index, at, median[:, :, index], low[:, :, index], high[:, :, index], last, series
        )
        for index in range(len(HORIZONS))
    ]


def _at_horizon(
    index: int,
    origins: npt.NDArray[np.int64],
    median: Floats,
    low: Floats,
    high: Floats,
    last: Floats,
    series: Series,
) -> Accuracy:
    ahead = int(HORIZONS[index])
    known = origins + ahead < len(series.values)
    came = series.values[origins[known] + ahead]
    naive = _error(came - last[origins[known]])
    naive = np.where(naive > 0, naive, np.nan)
    ours = _error(came - median[known]) / naive
    inside = (came[..., None] >= low[known]) & (came[..., None] <= high[known])
    judged = np.isfinite(came)[..., None] & np.isfinite(low[known])
    shares = np.array([inside[..., level][judged[..., level]].mean() for level in (0, 1)])
    return Accuracy(ours, _seasonal(ahead, origins[known], naive, last, series), shares)


def _seasonal(
    ahead: int, origins: npt.NDArray[np.int64], naive: Floats, last: Floats, series: Series
) -> Floats:
    day = round(DAY_SECONDS / series.interval_seconds)
    before = origins + ahead - day * -(-ahead // day)
    known = before >= 0
    if not series.daily or known.sum() < LEAST:
        return np.full_like(naive, np.nan)
    came = series.values[origins[known] + ahead]
    own = _error(came - last[origins[known]])
    found: Floats = _error(came - last[before[known]]) / np.where(own > 0, own, np.nan)
    return found


def _error(missed: Floats) -> Floats:
    """Mean absolute error per device and field; NaN where too few are known."""
    known = np.isfinite(missed)
    total = np.where(known, np.abs(missed), 0.0).sum(axis=0)
    count = known.sum(axis=0)
    found: Floats = np.where(count >= LEAST, total / np.maximum(count, 1), np.nan)
    return found


def _last_known(values: Floats) -> Floats:
    last = values.copy()
    for row in range(1, len(last)):
        np.copyto(last[row], last[row - 1], where=np.isnan(last[row]))
    return last


def _rows(name: str, found: list[list[Accuracy]]) -> Iterator[list[str]]:
    for index, ahead in enumerate(HORIZONS.tolist()):
        own = [part[index] for part in found]
        ours = np.concatenate([each.ours.ravel() for each in own])
        seasonal = np.concatenate([each.seasonal.ravel() for each in own])
        known = np.isfinite(ours)
        both = known & np.isfinite(seasonal)
        inside = np.mean([each.inside for each in own], axis=0)
        yield [
            name,
            str(ahead),
            f"{np.median(ours[known]):.2f}",
            f"{ours[known].max():.2f}",
            f"{100 * (ours[known] < 1.0).mean():.0f} %",
            f"{np.median(seasonal[both]):.2f}" if both.any() else "-",
            f"{100 * (ours[both] < seasonal[both]).mean():.0f} %" if both.any() else "-",
            *(f"{100 * share:.1f} %" for share in inside),
        ]


def _show(title: str, head: Sequence[str], rows: list[list[str]], path: Path) -> None:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, LEAST_WIDTH)
    console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


if __name__ == "__main__":
    sys.exit(main())
