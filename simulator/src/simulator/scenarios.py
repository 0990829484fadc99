"""What can be wrong with a device or its API: pure functions from a healthy reading to an answer.

`SCENARIOS` is the table: each name, what it does, its default magnitude and the function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from simulator import model
from simulator.model import Document

HEALTHY = "healthy"
MAX_DRIFT_SDS = 10.0
FIRMWARE = {"firmware": "2.4.1", "vibration": 0.12, "location": {"hall": 3, "row": "B"}}


@dataclass(frozen=True)
class Fleet:
    """What does not change while the simulator runs.

    Attributes:
        seed: Of every reading.
        device_count: Devices 1 to this.
        interval_seconds: Length of a tick.
        noise: Rates of sentinels and outliers.
        chaos: Share of devices a schedule gives a random scenario, 0 to 1.
        chaos_episode_ticks: How long such a scenario lasts.
    """

    seed: int = 1
    device_count: int = 100
    interval_seconds: float = 10.0
    noise: model.Noise = model.PUBLISHED_NOISE
    chaos: float = 0.0
    chaos_episode_ticks: int = 30

    def tick_at(self, now: float) -> int:
        """The number of the interval a Unix time falls into."""
        return int(now // self.interval_seconds)

    def time_of(self, tick: int) -> float:
        """When an interval begins."""
        return tick * self.interval_seconds


@dataclass(frozen=True)
class Active:
    """A scenario at work on a device.

    Attributes:
        name: Key of `SCENARIOS`.
        since_tick: When it began.
        until_tick: First tick without it; None: until it is taken away.
        magnitude: Instead of the scenario's default.
        field: Which measurement, where the scenario is about one.
    """

    name: str = HEALTHY
    since_tick: int = 0
    until_tick: int | None = None
    magnitude: float | None = None
    field: str = "sensor1"


@dataclass(frozen=True)
class Get:
    """One request: all an answer is a function of.

    Attributes:
        fleet: The constants.
        device: Who is asked.
        tick: When.
        active: What is wrong.
        nth: How many times this device was asked in this tick before.
        now: Unix time, when every GET is to have its own reading of that time; None for the
            tick's one reading.
    """

    fleet: Fleet
    device: int
    tick: int
    active: Active
    nth: int = 0
    now: float | None = None

    @property
    def elapsed_ticks(self) -> int:
        """How long the scenario has been at work."""
        return max(0, self.tick - self.active.since_tick)

    @property
    def magnitude(self) -> float:
        """The scenario's magnitude here."""
        own = self.active.magnitude
        return SCENARIOS[self.active.name].magnitude if own is None else own

    @property
    def normal(self) -> model.Normal:
        """Mean and deviation of the scenario's field."""
        return model.profile(self.fleet.seed, self.device)[self.active.field]

    def reading(
        self, tick: int | None = None, salt: str = "", noise: model.Noise | None = None
    ) -> Document:
        """The healthy reading, of this tick unless another is named."""
        at = self.tick if tick is None else tick
        fleet = self.fleet
        time = fleet.time_of(at)
        if self.now is not None:
            time += self.now - fleet.time_of(self.tick)
            salt = f"{salt} get {self.nth}"
        return model.reading(fleet.seed, self.device, at, time, noise or fleet.noise, salt)

    def random(self) -> Random:
        """Chance of this device and tick, apart from the reading's."""
        return model.random_for(self.active.name, self.fleet.seed, self.device, self.tick)


@dataclass(frozen=True)
class Answer:
    """What the API sends."""

    body: bytes
    status: int = 200
    delay_seconds: float = 0.0


def _healthy(get: Get) -> Document:
    return get.reading()


def _drift(get: Get) -> Document:
    sds = get.elapsed_ticks * get.magnitude
    return _shifted(get, max(-MAX_DRIFT_SDS, min(MAX_DRIFT_SDS, sds)) * get.normal.sd)


def _step(get: Get) -> Document:
    return _shifted(get, get.magnitude * get.normal.sd)


def _shifted(get: Get, shift: float) -> Document:
    document = get.reading()
    value = document[get.active.field]
    if value != model.SENTINEL:
        document[get.active.field] = round(value + shift, 2)
    return document


def _stuck(get: Get) -> Document:
    stuck_at = get.reading(tick=get.active.since_tick)[get.active.field]
    return get.reading() | {get.active.field: stuck_at}


def _fault(get: Get) -> Document:
    """The main motor labours, its cooling fails, the temperature follows over five ticks."""
    document = get.reading(noise=(model.Rates(0, 0), model.Rates(0, 0)))
    severity = min(1.0, (get.elapsed_ticks + 1) / 5) * get.magnitude
    heat_sd = model.profile(get.fleet.seed, get.device)["sensor1"].sd
    document["sensor1"] = round(document["sensor1"] + 8 * severity * heat_sd, 2)
    document["motor1"] = round(document["motor1"] * (1 - 0.35 * min(severity, 2.0)), 2)
    document["motor3"] = round(document["motor3"] * (1 - 0.45 * min(severity, 2.0)), 2)
    return document | {"isFail": True}


def _sentinels(get: Get) -> Document:
    rates = model.Rates(get.magnitude, 0)
    return get.reading(noise=(rates, rates))


def _outliers(get: Get) -> Document:
    rates = model.Rates(0, get.magnitude)
    return get.reading(noise=(rates, rates))


def _extra_fields(get: Get) -> Document:
    return get.reading() | FIRMWARE


def _missing_fields(get: Get) -> Document:
    document = get.reading()
    count = min(int(get.magnitude), len(document))
    for name in get.random().sample(sorted(document), k=count):
        del document[name]
    return document


def _repeated(get: Get) -> Document:
    """Every second tick says again what the one before said."""
    return get.reading(tick=get.tick - get.elapsed_ticks % 2)


def _conflict(get: Get) -> Document:
    """Two ticks, and every GET inside them, share a time; the values differ."""
    time = get.reading(tick=get.tick - get.elapsed_ticks % 2)["time"]
    return get.reading(salt=f"conflict {get.nth}" if get.nth else "") | {"time": time}


def _clock(get: Get) -> Document:
    right = get.fleet.time_of(get.tick) if get.now is None else get.now
    return get.reading() | {"time": model.timestamp(right + get.magnitude)}


def _wrong_types(get: Get) -> Document:
    document = get.reading()
    changes = (
        {"sensor1": str(document["sensor1"])},  # lossless: 85.69 as text
        {"sensor2": "n/a", "motor2": None},
        {"motor1": {"value": document["motor1"]}},
        {"isFail": "yes"},
        {"isFail": 0, "sensor3": [document["sensor3"]]},
        {"DeviceId": str(get.device)},
        {"DeviceId": "pump"},
        {"time": get.fleet.time_of(get.tick)},
    )
    return document | get.random().choice(changes)


def _slow(get: Get) -> Answer:
    return Answer(model.encode(get.reading()), delay_seconds=get.magnitude)


def _error_5xx(get: Get) -> Answer:
    return Answer(b'{"error":"internal error"}', status=get.random().choice((500, 502, 503, 504)))


def _not_found(get: Get) -> Answer:
    return not_found(get.device)


def not_found(device: object) -> Answer:
    """The answer about a device nobody knows."""
    return Answer(model.encode({"error": "unknown device", "DeviceId": device}), status=404)


def _truncated(get: Get) -> Answer:
    body = model.encode(get.reading())
    return Answer(body[: get.random().randrange(1, len(body))])


def _not_utf8(get: Get) -> Answer:
    return Answer(model.encode(get.reading()).replace(b'"time"', b'"\xff\xfe\x80"'))


def _not_json(get: Get) -> Answer:
    body = model.encode(get.reading() | {"sensor2": float("nan"), "motor2": float("-inf")})
    return Answer(body)


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    description: str
    answer: Callable[[Get], Document] | Callable[[Get], Answer]
    magnitude: float = 0.0
    magnitude_means: str = ""


SCENARIOS: dict[str, Scenario] = {
    HEALTHY: Scenario("as published; also exempts a device from --chaos", _healthy),
    "drift": Scenario("a field moves away slowly, to 10 sd", _drift, 0.1, "sd per tick"),
    "stuck": Scenario("a field repeats its first value", _stuck),
    "step": Scenario("a field jumps and stays", _step, 5.0, "sd"),
    "fault": Scenario(
        "main and cooling motor fall, temperature rises, isFail is true", _fault, 1.0, "severity"
    ),
    "sentinels": Scenario("fields are -1", _sentinels, 0.5, "share of fields"),
    "outliers": Scenario("fields are 3 to 5 sd off", _outliers, 0.5, "share of fields"),
    "slow": Scenario("the answer comes late", _slow, 8.0, "seconds"),
    "error_5xx": Scenario("500, 502, 503 or 504", _error_5xx),
    "not_found": Scenario("404, as for an unknown device", _not_found),
    "truncated": Scenario("the JSON breaks off", _truncated),
    "wrong_types": Scenario("numbers as text, null, lists; a numeric time", _wrong_types),
    "extra_fields": Scenario("fields the contract does not know", _extra_fields),
    "missing_fields": Scenario("fields are absent, even the key", _missing_fields, 2, "fields"),
    "repeated": Scenario("every second tick repeats the one before", _repeated),
    "conflict": Scenario("same time, other values", _conflict),
    "clock_ahead": Scenario("the time is in the future", _clock, 300.0, "seconds"),
    "clock_behind": Scenario("the time is in the past", _clock, -300.0, "seconds"),
    "not_utf8": Scenario("bytes that are not UTF-8", _not_utf8),
    "not_json": Scenario("NaN and -Infinity, which JSON has not", _not_json),
}

CHAOS = tuple(name for name in SCENARIOS if name != HEALTHY)


def answer(get: Get) -> Answer:
    """What the API sends to a request."""
    made = SCENARIOS[get.active.name].answer(get)
    return made if isinstance(made, Answer) else Answer(model.encode(made))


@lru_cache(maxsize=65536)
def _chaos_episode(seed: int, device: int, episode: int, share: float) -> str:
    random = model.random_for("chaos", seed, device, episode)
    return random.choice(CHAOS) if random.random() < share else HEALTHY


@lru_cache(maxsize=65536)
def _chaos_shift(seed: int, device: int, length: int) -> int:
    return model.random_for("phase", seed, device).randrange(length)


def scheduled(fleet: Fleet, device: int, tick: int) -> Active:
    """What `chaos` has in store for a device: a function of seed, device and episode.

    Episodes of different devices begin at different ticks, so that not all change at once.
    """
    if not fleet.chaos:
        return Active()
    length = fleet.chaos_episode_ticks
    shift = _chaos_shift(fleet.seed, device, length)
    episode = (tick + shift) // length
    since = episode * length - shift
    name = _chaos_episode(fleet.seed, device, episode, fleet.chaos)
    return Active(name, since_tick=since, until_tick=since + length)
