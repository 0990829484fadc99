"""Alerts in words: for mail and for a short message. Pure."""

from collections.abc import Mapping, Sequence

from anomaly.messages import CLOSED, UPDATE, Alert, GroupAlert, LimitAlert, Message, RecentReading

MAX_SMS_CHARACTERS = 140
"""Of ASCII, so that it is one SMS (SNS developer guide, mobile text messaging)."""
MAX_SUBJECT_CHARACTERS = 100
"""SNS API reference, Publish: subjects are shorter, in ASCII, and have no line breaks."""

TOLD_FIELDS = 3
NEGLIGIBLE_SHARE = 0.05
"""A field with less is not worth a person's time, unless it is the first."""

Units = Mapping[str, str]
"""Unit by column, as the contract says it."""


def subject(message: Message) -> str:
    """Of a mail."""
    if isinstance(message, GroupAlert):
        text = f"{message.severity}: {message.devices} devices {message.state} together"
    elif isinstance(message, LimitAlert):
        about = f"limit {message.state} ({message.field})"
        text = f"{message.severity}: device {message.device_id} {about}"
    else:
        leading = next(iter(message.peak_fields or message.fields), "")
        text = f"{message.severity}: device {message.device_id} {message.state} ({leading})"
    return _ascii(text)[: MAX_SUBJECT_CHARACTERS - 1]


def short(message: Message, units: Units) -> str:
    """One line; of it, an SMS takes the beginning."""
    if isinstance(message, GroupAlert):
        return _short_group(message)
    if isinstance(message, LimitAlert):
        return _short_limit(message, units)
    since = f"since {_clock(message.since)}"
    if message.state == CLOSED:
        lasted = _duration(message.duration_seconds)
        return (
            f"closed: device {message.device_id} {since}, {lasted}: {message.severity},"
            f" {message.anomalous_readings} anomalous readings,"
            f" most in {next(iter(message.peak_fields), 'no field')}"
        )
    return (
        f"{message.severity}{_still(message)}: device {message.device_id} {since}:"
        f" {_fields(message, units)}"
    )


def sms(message: Message, units: Units) -> str:
    """For a phone."""
    text = _ascii(short(message, units))
    return text if len(text) <= MAX_SMS_CHARACTERS else text[: MAX_SMS_CHARACTERS - 2] + ".."


def mail(message: Message, units: Units) -> str:
    """For a mailbox: what happened, the last readings, and the ids to look it up by."""
    lines = [short(message, units), ""]
    if isinstance(message, GroupAlert):
        lines += _members(message)
    elif isinstance(message, LimitAlert):
        lines += _interval(message)
    else:
        counted = f"{message.anomalous_readings} of {message.readings} readings anomalous"
        lasted = _duration(message.duration_seconds)
        lines += [f"Peak score {message.peak_score:.9f}; {counted} in {lasted}.", ""]
        lines += _table(message.recent, units)
    since = "" if isinstance(message, LimitAlert) else f"Since {message.since}, now "
    lines += ["", f"{since}{message.event_time}. alert_id {message.alert_id}"]
    return "\n".join(lines) + "\n"


def _short_group(message: GroupAlert) -> str:
    since = f"since {_clock(message.since)}"
    if message.state == CLOSED:
        return f"closed: {message.devices} devices together {since}: {message.severity}"
    leading = ", ".join(f"{field} on {count}" for field, count in message.fields.items())
    listed = ", ".join(member.device_id for member in message.members[:10])
    more = ", ..." if message.devices > len(message.members[:10]) else ""
    return (
        f"{message.severity}{_still(message)}: {message.devices} devices together {since}:"
        f" {leading}; devices {listed}{more}"
    )


def _short_limit(message: LimitAlert, units: Units) -> str:
    where = f"device {message.device_id}: {message.field}"
    if message.state == CLOSED or message.in_seconds is None:
        return f"closed: {where} is on its way to no limit any more"
    limit, seen = (_value(each, message.field, units) for each in (message.limit, message.seen))
    if message.in_seconds == 0:
        return f"{message.severity}{_still(message)}: {where} has reached {limit} (now {seen})"
    when = _duration(message.in_seconds)
    return f"{message.severity}{_still(message)}: {where} reaches {limit} in ~{when} (now {seen})"


def _interval(message: LimitAlert) -> list[str]:
    if message.earliest_seconds is None:
        return []
    latest = message.latest_seconds
    until = "never" if latest is None else _duration(latest)
    return [f"If it goes on so: in {_duration(message.earliest_seconds)} to {until} (80 %)."]


def _members(message: GroupAlert) -> list[str]:
    lines = [
        f"  device {each.device_id}: {each.severity}, {each.state}, since {_clock(each.since)}"
        f" ({each.field})"
        for each in message.members
    ]
    return lines + ([f"  and {message.members_omitted} more"] if message.members_omitted else [])


def _still(message: Message) -> str:
    return " (goes on)" if message.state == UPDATE else ""


def _fields(message: Alert, units: Units) -> str:
    shares = list(message.fields.items())[:TOLD_FIELDS]
    told = [name for place, (name, share) in enumerate(shares) if not place or _matters(share)]
    return ", ".join(_field(message, name, units) for name in told)


def _matters(share: float) -> bool:
    return share >= NEGLIGIBLE_SHARE


def _field(message: Alert, name: str, units: Units) -> str:
    expected = message.expected.get(name)
    value = _value(message.seen.get(name), name, units)
    return f"{name} {value}" + ("" if expected is None else f" (expected {_figure(expected)})")


def _value(value: float | None, name: str, units: Units) -> str:
    unit = f" {units[name]}" if units.get(name) else ""
    return "no value" if value is None else f"{_figure(value)}{unit}"


def _table(recent: Sequence[RecentReading], units: Units) -> list[str]:
    """The last readings with the fields that matter most, in columns."""
    if not recent:
        return []
    names = list(recent[-1].values)[:6]
    heads = ["time", "score", *(f"{n} [{units[n]}]" if units.get(n) else n for n in names)]
    rows = [heads] + [
        [
            _clock(each.event_time),
            "" if each.score is None else f"{each.score:.6f}",
            *(_cell(each.values.get(name)) for name in names),
        ]
        for each in recent
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else _figure(value)


def _figure(value: float) -> str:
    """Four figures, as people read them: 56.83 and 1204, not 1.204e+03."""
    if value and not 0.001 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:.{max(digits, 0)}f}" if abs(value) >= 1 else f"{value:.4g}"


def _clock(iso: str) -> str:
    """Time of day of an ISO time, without fractions; the day is the reader's."""
    return iso.partition("T")[2].partition(".")[0].removesuffix("Z") + "Z"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _ascii(text: str) -> str:
    """Without what phones and subjects do not take."""
    plain = text.replace("°", "").replace("µ", "u")
    return "".join(each if " " <= each <= "~" else "?" for each in plain)
