"""Pictures of docs/: what the bench found, as PNG."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from anomaly import forecast
from anomaly.detection import ensemble
from anomaly.detection.interface import Batch
from bench.anomaly import faults, fleet, forecast_limits, plant
from bench.anomaly.fleet import DAY, HOUR, Fleet
from bench.anomaly.fleet_figures import Episode, Found
from bench.anomaly.forecast_limits import Ramps
from bench.anomaly.service_path import FleetScored

mpl.use("Agg")
DPI = 90
RED, BLUE, GREY, GREEN = "#c0392b", "#2c6fbb", "#9aa0a6", "#2e7d32"
SHADE = 0.25


def channels(found: list[Found], path: Path) -> None:
    """Which share of the faults of each kind and channel raised an alert."""
    kinds = [*faults.FAULTS, faults.FLEET_WIDE]
    shares = np.full((len(kinds), len(plant.FIELDS)), np.nan)
    for row, kind in enumerate(kinds):
        for field in range(len(plant.FIELDS)):
            own = [
                each.delay >= 0
                for each in found
                if each.event.kind == kind and each.event.field == field
            ]
            if own:
                shares[row, field] = np.mean(own)
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    axes.imshow(shares, cmap="RdYlGn", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(plant.FIELDS)), plant.FIELDS)
    axes.set_yticks(range(len(kinds)), kinds)
    for row, field in np.argwhere(np.isfinite(shares)):
        text = f"{100 * shares[row, field]:.0f} %"
        axes.text(field, row, text, ha="center", va="center", fontsize=9)
    axes.set_title("Share of the faults that raised an alert", fontsize=10)
    _save(figure, path)


def device(made: Fleet, scored: FleetScored, raised: list[Episode], path: Path) -> None:
    """Three days of a shift machine with faults: what happened, and what was said."""
    chosen = int(made.of_group("faults")[1])
    own = [each for each in made.events if each.device == chosen]
    figure, axes = plt.subplots(
        len(plant.FIELDS) + 1, 1, figsize=(9.5, 7.5), sharex=True, layout="constrained"
    )
    hours = np.arange(len(made.values)) / HOUR
    for field, axis in enumerate(axes[:-1]):
        axis.plot(hours[::3], made.values[::3, chosen, field], color=BLUE, linewidth=0.4)
        axis.set_ylabel(plant.FIELDS[field], fontsize=8)
        for event in own:
            if event.field == field:
                axis.axvspan(
                    event.first / HOUR, (event.last + 12) / HOUR, color=RED, alpha=SHADE, lw=0
                )
                axis.annotate(
                    event.kind,
                    (event.first / HOUR, 0.84),
                    xycoords=("data", "axes fraction"),
                    fontsize=7,
                    color=RED,
                )
        for each in raised:
            if each.device == chosen and each.field == field:
                axis.axvspan(each.first / HOUR, each.closed / HOUR, ymax=0.08, color="black", lw=0)
        axis.set_xlim(0.0, hours[-1])
        axis.tick_params(labelsize=7)
    rare = -np.log10(np.maximum(1.0 - scored.scores[:, chosen].astype(float), 1e-9))
    axes[-1].plot(hours, rare, color=GREY, linewidth=0.5)
    axes[-1].axhline(-np.log10(1.0 - ensemble.THRESHOLD), color=RED, linewidth=0.8)
    axes[-1].set_ylabel("−log10(1−score)", fontsize=8)
    axes[-1].set_xlabel(
        "hours; red: a fault and its name; black: an alert, under the field it names"
    )
    axes[-1].tick_params(labelsize=7)
    _save(figure, path)


def month(made: Fleet, scored: FleetScored, raised: list[Episode], path: Path) -> None:
    """Alerts of each machine over thirty days, and the size of the saved state."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9.5, 4.6), sharex=True, layout="constrained", height_ratios=[3, 1]
    )
    devices = made.present.shape[1]
    for event in made.events:
        colour = RED if event.fault else GREEN
        last = event.last if event.fault else event.first + DAY // 12
        above.barh(
            event.device,
            (last - event.first) / DAY,
            left=event.first / DAY,
            height=0.85,
            color=colour,
            alpha=0.45,
        )
    for each in raised:
        above.plot(each.opened / DAY, each.device, "|", color="black", markersize=11)
    names = [
        f"{made.group[row]}, {'shift' if made.shift[row] else 'steady'}" for row in range(devices)
    ]
    above.set_yticks(range(devices), names, fontsize=8)
    above.set_title("red: fault; green: changed for good; a line: an alert opened", fontsize=9)
    below.plot(np.arange(1, len(scored.snapshot_bytes) + 1), np.array(scored.snapshot_bytes) / 1e3)
    below.set_ylim(0, 1.3 * max(scored.snapshot_bytes) / 1e3)
    below.set_ylabel("saved state, KB", fontsize=8)
    below.set_xlabel("days")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version in it, equal results are equal files.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def intervals(values: np.ndarray, path: Path) -> None:
    """What was said ten minutes ahead, beside what came: one field at the start of a shift."""
    first, last, ahead = 50 * HOUR, 58 * HOUR, 60
    model = forecast.Forecast()
    state = model.begin(1, values.shape[2])
    said = []
    for tick in range(last):
        event_us = np.array([fleet.START_US + tick * int(fleet.INTERVAL_SECONDS * 1e6)])
        state = model.learn(Batch(values[tick, :1], np.zeros(1, np.int64), event_us), state)
        if tick >= first and tick % 6 == 0:
            found = model.predict(state, np.zeros(1, np.int64), np.array([600.0]))
            said.append(
                [tick + ahead, found.median[0, 0, 0], *found.low[0, 0, 0], *found.high[0, 0, 0]]
            )
    at, median, low80, low95, high80, high95 = np.array(said).T
    figure, axes = plt.subplots(figsize=(9.5, 3.2), layout="constrained")
    axes.fill_between(at / HOUR, low95, high95, color=BLUE, alpha=0.15, lw=0, label="95 %")
    axes.fill_between(at / HOUR, low80, high80, color=BLUE, alpha=0.3, lw=0, label="80 %")
    axes.plot(at / HOUR, median, color=BLUE, linewidth=0.9, label="said ten minutes before")
    ticks = np.arange(first + ahead, last)
    axes.plot(ticks / HOUR, values[ticks, 0, 0], ".", color="black", markersize=1.2, label="came")
    axes.set_xlim(ticks[0] / HOUR, ticks[-1] / HOUR)
    axes.set_ylabel("sensor1, °C", fontsize=8)
    axes.set_xlabel("hours", fontsize=8)
    axes.legend(fontsize=7, loc="lower right", ncols=4)
    axes.tick_params(labelsize=7)
    _save(figure, path)


def time_to_limit(made: Ramps, path: Path) -> None:
    """One drifting field of each speed: the value, its limit, and the time that was said."""
    chosen = [int(np.flatnonzero(made.hours == hours)[1]) for hours in forecast_limits.HOURS]
    figure, axes = plt.subplots(2, len(chosen), figsize=(9.5, 4.2), layout="constrained")
    for (above, below), device in zip(axes.T, chosen, strict=True):
        field, reached = made.field[device], int(made.reached[device])
        ticks = np.arange(forecast_limits.DRIFT_AT - HOUR, reached + HOUR // 6)
        hours = (ticks - forecast_limits.DRIFT_AT) / HOUR
        above.plot(hours, made.values[ticks, device, field], color=BLUE, linewidth=0.4)
        limit = made.level[device, field] + forecast_limits.LIMIT * plant.SPREAD[field]
        above.axhline(limit, color=RED, linewidth=0.9)
        above.set_title(f"{plant.FIELDS[field]}, {made.hours[device]} h", fontsize=8)
        moments = np.arange(len(made.said)) * forecast_limits.EVERY
        part = (moments >= ticks[0]) & (moments <= reached)
        told = made.said[part, device, field] / 60.0
        at = (moments[part] - forecast_limits.DRIFT_AT) / HOUR
        below.fill_between(
            at, told[:, 1], np.minimum(told[:, 2], 1e4), color=BLUE, alpha=0.25, lw=0
        )
        below.plot(at, told[:, 0], color=BLUE, linewidth=1.2, label="said")
        true = (reached - moments[part]) * fleet.INTERVAL_SECONDS / 60.0
        below.plot(at, true, color="black", linewidth=0.8, label="true")
        below.set_ylim(0, 1.15 * true.max())
        below.set_xlim(*above.get_xlim())
        below.set_xlabel("hours of drift", fontsize=7)
        for axis in (above, below):
            axis.tick_params(labelsize=7)
    axes[1, 0].set_ylabel("minutes to the limit", fontsize=8)
    axes[1, 0].legend(fontsize=7)
    _save(figure, path)
