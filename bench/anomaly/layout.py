"""Public folder layouts of NAB and SKAB: which files, what is in them, where results go."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from telemill.errors import ConfigurationError

LABEL_COLUMN = "anomaly"
RESULT_COLUMNS = ("timestamp", "anomaly_score", "is_anomaly")


class Recording(NamedTuple):
    """One input file.

    Attributes:
        path: Relative to the given folder.
        stamps: Its time column, as it stands there.
        event_us: The same, microseconds since 1970.
        values: Rows by measures; NaN where a cell is empty.
        labels: Rows; what SKAB says of them, None without that column.
    """

    path: Path
    stamps: Sequence[str]
    event_us: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_] | None


def recordings(folder: Path, time: str, measures: Sequence[str]) -> Iterator[Recording]:
    """Every CSV below a folder that has the time column, in order of path.

    Raises:
        ConfigurationError: There is none, or one lacks a measure or holds what is no number.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: takes a folder; there is none")
    found = False
    for path in sorted(folder.rglob("*.csv")):
        rows = _rows(path)
        if rows and time in rows[0]:
            found = True
            yield _recording(path, folder, rows, time, measures)
    if not found:
        raise ConfigurationError(f"{folder}: no CSV with a column {time!r} below")


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        separator = ";" if ";" in file.readline() else ","
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter=separator) if row]
    return [[cell.strip() for cell in rows[0]], *rows[1:]] if rows else []


def _recording(
    path: Path, folder: Path, rows: list[list[str]], time: str, measures: Sequence[str]
) -> Recording:
    head, body = rows[0], rows[1:]
    missing = [name for name in measures if name not in head]
    if missing:
        raise ConfigurationError(f"{path}: no column {missing[0]!r}; has {', '.join(head)}")
    at = [head.index(name) for name in measures]
    stamps = [row[head.index(time)] for row in body]
    try:
        event_us = np.array([_epoch_us(stamp) for stamp in stamps], np.int64)
        cells = [[float(row[index] or "nan") for index in at] for row in body]
        values = np.array(cells, np.float64).reshape(len(body), len(at))
        labels = None
        if LABEL_COLUMN in head:
            label_at = head.index(LABEL_COLUMN)
            labels = np.array([float(row[label_at]) > 0.5 for row in body])
    except (ValueError, IndexError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return Recording(path.relative_to(folder), stamps, event_us, values, labels)


def _epoch_us(stamp: str) -> int:
    instant = datetime.fromisoformat(stamp.strip())
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def clear(results: Path) -> None:
    """No result of an earlier run may be taken for one of this."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)


def write(
    results: Path,
    recording: Recording,
    scores: npt.NDArray[np.float64],
    flags: npt.NDArray[np.bool_],
) -> None:
    """One result file beside the others, one row per input row; warm-up has score 0."""
    path = results / recording.path
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(recording.stamps, np.nan_to_num(scores).tolist(), flags.tolist(), strict=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(RESULT_COLUMNS)
        writer.writerows((stamp, repr(score), int(flag)) for stamp, score, flag in rows)


def name_without_data(results: Path) -> None:
    """Where the given folder held `data/`, its contents are found without that, too.

    The label files of NAB and the scorers of both corpora name files from `data/` on.
    """
    inner = results / "data"
    for each in sorted(inner.iterdir()) if inner.is_dir() else []:
        link = results / each.name
        if not link.exists():
            link.symlink_to(Path("data") / each.name)


def nab_windows(folder: Path) -> Mapping[str, list[tuple[int, int]]]:
    """Labelled windows by file (`category/name.csv`), microseconds; empty without labels."""
    for place in (folder / "labels", folder.parent / "labels"):
        path = place / "combined_windows.json"
        if path.is_file():
            found = json.loads(path.read_text())
            return {
                name: [(_epoch_us(first), _epoch_us(last)) for first, last in windows]
                for name, windows in found.items()
            }
    return {}
