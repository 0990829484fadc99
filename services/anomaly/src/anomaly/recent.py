"""The last few readings of each device: remembered for all, looked up for alerts. Pure."""

from typing import NamedTuple

import numpy as np

from anomaly.detection.interface import Batch, Floats, Ints
from anomaly.episodes import RECENT_ROWS, Episodes


class Readings(NamedTuple):
    """Some readings of one device, oldest first.

    Attributes:
        event_us: n; event times.
        score: n; NaN where there is none.
        values: n by fields; NaN where there is none.
    """

    event_us: Ints
    score: Floats
    values: Floats


def up_to(row: int, batch: Batch, score: Floats, episodes: Episodes) -> Readings:
    """The device's last readings up to a row of the batch that is being taken.

    Args:
        row: Of the batch.
        batch: Readings that are not remembered yet.
        score: Of each of them.
        episodes: What is remembered.
    """
    device = batch.devices[row]
    here = np.flatnonzero(batch.devices[: row + 1] == device)[-RECENT_ROWS:]
    before = int(min(episodes.rows[device], RECENT_ROWS - len(here)))
    places = (episodes.rows[device] + np.arange(-before, 0)) % RECENT_ROWS
    return Readings(
        np.r_[episodes.recent_us[device, places], batch.event_us[here]],
        np.r_[episodes.recent_score[device, places], score[here]],
        np.concatenate([episodes.recent_values[device, places], batch.values[here]]),
    )


def remember(batch: Batch, score: Floats, episodes: Episodes) -> None:
    """Keep each device's last readings of a batch."""
    order = np.argsort(batch.devices, kind="stable")
    ordered = batch.devices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.arange(len(ordered)) - np.repeat(starts, lengths)
    last = ranks >= np.repeat(lengths, lengths) - RECENT_ROWS
    rows, devices = order[last], ordered[last]
    places = (episodes.rows[devices] + ranks[last]) % RECENT_ROWS
    episodes.recent_us[devices, places] = batch.event_us[rows]
    episodes.recent_score[devices, places] = score[rows]
    episodes.recent_values[devices, places] = batch.values[rows]
    episodes.rows[ordered[starts]] += lengths
