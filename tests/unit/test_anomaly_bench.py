"""`make anomaly-bench`: every row of every file gets a score, and the figures are the published."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bench.anomaly import __main__ as command
from bench.anomaly import figures, layout
from telemill import errors

SKAB_MEASURES = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)


def stamps(rows: int, seconds: int) -> list[str]:
    """Times as both corpora write them."""
    start = np.datetime64("2020-03-09T10:00:00")
    return [str(start + row * seconds).replace("T", " ") for row in range(rows)]


def nab_folder(root: Path) -> Path:
    """One stream with one labelled jump, in NAB's layout."""
    times = stamps(1000, 300)
    values = np.random.default_rng(1).normal(10.0, 1.0, 1000)
    values[600:620] += 60.0
    folder = root / "data" / "realKnownCause"
    folder.mkdir(parents=True)
    lines = [f"{time},{value}" for time, value in zip(times, values, strict=True)]
    (folder / "jump.csv").write_text("\n".join(["timestamp,value", *lines]) + "\n")
    (root / "labels").mkdir()
    window = [f"{times[580]}.000000", f"{times[660]}.000000"]
    labels = json.dumps({"realKnownCause/jump.csv": [window]})
    (root / "labels" / "combined_windows.json").write_text(labels)
    return root


def skab_folder(root: Path) -> Path:
    """One run with one fault in SKAB's layout."""
    values = np.random.default_rng(2).normal(5.0, 0.1, (900, len(SKAB_MEASURES)))
    values[500:800, 7] += 2.0
    folder = root / "valve1"
    folder.mkdir(parents=True)
    lines = [";".join(["datetime", *SKAB_MEASURES, "anomaly", "changepoint"])]
    for row, time in enumerate(stamps(900, 1)):
        label = float(500 <= row < 800)
        lines.append(";".join([time, *map(str, values[row]), str(label), "0.0"]))
    (folder / "0.csv").write_text("\n".join(lines) + "\n")
    return root


def results(path: Path) -> list[list[str]]:
    """A result file, head first."""
    with path.open() as file:
        return list(csv.reader(file))


def test_each_input_row_has_a_result_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results lie at the same relative path, with the same timestamps, and the table is printed."""
    nab, skab = nab_folder(tmp_path / "nab"), skab_folder(tmp_path / "skab")
    out = tmp_path / "results"
    stale = out / "skab" / "stale.csv"
    stale.parent.mkdir(parents=True)
    stale.touch()
    arguments = ["--nab", str(nab), "--skab", str(skab), "--results", str(out)]
    assert command.main(arguments) == 0
    found = results(out / "nab" / "data" / "realKnownCause" / "jump.csv")
    assert found[0] == ["timestamp", "anomaly_score", "is_anomaly"]
    assert [row[0] for row in found[1:]] == stamps(1000, 300)
    assert results(out / "nab" / "realKnownCause" / "jump.csv") == found
    flagged = [row for row, cells in enumerate(found[1:]) if cells[2] == "1" and row >= 200]
    assert 600 in flagged
    pump = results(out / "skab" / "valve1" / "0.csv")
    assert len(pump) == 901
    assert all(cells[2] == "1" for cells in pump[521:801])
    assert not stale.exists()
    printed = capsys.readouterr().out
    assert "NAB, 1 files" in printed
    assert "SKAB, 1 files" in printed


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no CSV"),
        ("timestamp,other\n1,2\n", "no column 'value'"),
        ("timestamp,value\nx,2\n", "x"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, why: str
) -> None:
    """A wrong folder or file says what is wrong with it."""
    (tmp_path / "a.csv").write_text(content)
    assert command.main(["--nab", str(tmp_path), "--results", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_a_missing_cell_is_a_missing_value(tmp_path: Path) -> None:
    """An empty cell becomes NaN, and the row stays."""
    (tmp_path / "a.csv").write_text(
        "timestamp,value\n2020-01-01 00:00:00,\n2020-01-01 00:05:00,2\n"
    )
    (found,) = layout.recordings(tmp_path, "timestamp", ["value"])
    assert np.isnan(found.values[0, 0])
    assert found.values[1, 0] == 2.0


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    """No folder is a configuration error."""
    with pytest.raises(errors.ConfigurationError, match="takes a folder"):
        list(layout.recordings(tmp_path / "none", "timestamp", ["value"]))


def test_nab_scores_are_those_of_its_definition() -> None:
    """Perfect is 100, silence 0; early beats late; a false row costs; low FN punishes misses."""
    event_us = np.arange(1000) * 300_000_000
    file = figures.NabFile(event_us, [(int(event_us[400]), int(event_us[499]))])

    def scored(*rows: int) -> dict[str, float]:
        scores = np.zeros(1000)
        scores[list(rows)] = 1.0
        return figures.nab([(file, scores)], 0.5)

    assert list(scored(400).values()) == pytest.approx([100.0] * 3)
    assert set(scored().values()) == {0.0}
    assert scored(450)["standard"] < scored(410)["standard"]
    assert scored(410, 450) == scored(410)
    # A row before the first window costs its full weight: 0.11 of a range of 2 points.
    assert scored(400)["standard"] - scored(300, 400)["standard"] == pytest.approx(5.5)
    assert scored(400)["low FP"] - scored(300, 400)["low FP"] == pytest.approx(11.0)
    # The first 150 rows are probation.
    assert scored(100, 400) == scored(400)


def test_skab_figures_are_counts_after_the_warm_up() -> None:
    """F1, false alarms and misses are counted from row 400 on."""
    labels = np.zeros(800, bool)
    labels[600:700] = True
    scores = np.zeros(800)
    scores[:400] = 1.0
    scores[650:720] = 1.0
    found = figures.skab([(labels, scores)], 0.5)
    assert found.false_alarms == pytest.approx(20 / 300)
    assert found.missed == pytest.approx(0.5)
    assert found.f1 == pytest.approx(50 / (50 + 70 / 2))
    assert figures.skab_best([(labels, scores)]) == 1.0
