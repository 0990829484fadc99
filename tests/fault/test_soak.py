"""A short soak: the long one is `python -m fault soak`."""

from pathlib import Path

from fault import kills, soak

SEED = 20260101
MINUTES = 0.5
VICTIMS = ["transform@a", "transform@b", "ingest@a"]


def test_kills_under_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    """Random SIGKILLs, partial failures, lost answers, throttles and splits: no row shows it."""
    made = soak.run(
        tmp_path / "soak",
        minutes=MINUTES,
        seed=SEED,
        readings_per_second=500.0,
        show=lambda _line: None,
    )
    assert made["audit"] == dict.fromkeys(made["audit"], 0)
    assert made["statuses"] == {}
    assert made["kills"] >= MINUTES * kills.KILLS_PER_MINUTE * 0.8
    assert made["scores"] == made["stored"] > 0
    injected = made["faults_injected"]
    assert injected["partial_failure"] > 0
    assert injected["commit_then_drop"] > 0
    assert len(made["splits"]) == len(soak.RESHARD_AT)


def test_a_seed_is_a_schedule() -> None:
    """The same seed kills the same processes at the same times; another one does not."""
    schedule = kills.schedule(SEED, 60.0, VICTIMS)
    assert schedule == kills.schedule(SEED, 60.0, VICTIMS)
    assert schedule != kills.schedule(SEED + 1, 60.0, VICTIMS)
    assert {kill.victim for kill in schedule} == set(VICTIMS)


def test_six_minutes_kill_two_hundred_times() -> None:
    """The schedule reaches the promised number, and some workers stay away long enough."""
    schedule = kills.schedule(SEED, 360.0, VICTIMS)
    assert len(schedule) >= 200
    away = [kill.away_seconds for kill in schedule if kill.away_seconds]
    assert away
    assert min(away) >= kills.LONG_SECONDS[0]
