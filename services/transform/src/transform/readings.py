"""Decoded rows to readings: a known device, a time that can be, their arrival."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from telemill import slots
from telemill.contract import Contract
from telemill.errors import SchemaError
from transform import reasons, times, validate
from transform.decode import Decoded
from transform.items import Refusal, shown
from transform.portion import Portion, Refused
from transform.validate import Column

MICROSECONDS = 1_000_000
_MAX_CACHED_DEVICES = 100_000

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Device:
    """A device as a reading named it: its id, key and slot, or why it is none."""

    id: int | str
    key: str
    slot: int
    refusal: Refusal | None = None


@dataclass(slots=True)
class Readings:
    """Rows on their way: every array has one entry a row, in the order of their lineage.

    Attributes:
        devices: The distinct devices.
        codes: Index into `devices`.
        event_us: Event time.
        arrival_us: When Kinesis took the record.
        values: In the order of `contract.values`.
        places: Index into the portion's places.
        rows: Number of the item in its document.
        wrong_types: By row and value; None when there are none.
    """

    devices: list[Device]
    codes: Int64s
    event_us: Int64s
    arrival_us: Int64s
    values: list[Column]
    places: npt.NDArray[np.int32]
    rows: Int64s
    wrong_types: npt.NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.event_us)

    def take(self, kept: Bools) -> "Readings":
        """Only some rows."""
        if kept.all():
            return self
        return Readings(
            self.devices,
            self.codes[kept],
            self.event_us[kept],
            self.arrival_us[kept],
            [column.take(kept) for column in self.values],
            self.places[kept],
            self.rows[kept],
            None if self.wrong_types is None else self.wrong_types[kept],
        )


class Conformer:
    """Makes readings of decoded rows. Caches devices, nothing else."""

    def __init__(self, contract: Contract, slot_count: int) -> None:
        self._contract = contract
        self._slot_count = slot_count
        self._tolerance_us = round(contract.future_tolerance_seconds * MICROSECONDS)
        self._devices: dict[Any, Device] = {}

    def conform(self, portion: Portion, decoded: Decoded) -> tuple[Readings, list[Refused]]:
        """The rows that are readings, and the refusal of each other one."""
        readings = self._all_rows(portion, decoded)
        known = np.array([device.refusal is None for device in readings.devices], np.bool_)
        good: Bools = (
            known[readings.codes]
            & (readings.event_us != times.BAD)
            & (readings.event_us - readings.arrival_us <= self._tolerance_us)
        )
        refused = [
            refused_row(portion, readings, row, self._why(readings, decoded.time[row].as_py(), row))
            for row in np.flatnonzero(~good).tolist()
        ]
        return readings.take(good), refused

    def _all_rows(self, portion: Portion, decoded: Decoded) -> Readings:
        encoded = decoded.device.dictionary_encode(null_encoding="encode")
        arrival_us = np.array([record.arrival_us for record in portion.records], np.int64)
        return Readings(
            devices=[self._device(value) for value in encoded.dictionary.to_pylist()],
            codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
            event_us=times.parse(decoded.time),
            arrival_us=arrival_us[decoded.places],
            values=[
                validate.received(value, array)
                for value, array in zip(self._contract.values, decoded.values, strict=True)
            ],
            places=decoded.places,
            rows=decoded.rows,
            wrong_types=self._wrong_types(portion),
        )

    def _device(self, value: Any) -> Device:
        device = self._devices.get(value)
        if device is None:
            if len(self._devices) >= _MAX_CACHED_DEVICES:
                self._devices.clear()
            device = self._devices[value] = self._new_device(value)
        return device

    def _new_device(self, value: Any) -> Device:
        name = self._contract.device.name
        if value is None or value == "":
            return Device("", "", 0, Refusal(reasons.MISSING_DEVICE, f"{name} is missing"))
        try:
            device_id = self._contract.device_id(value)
        except SchemaError as error:
            return Device("", "", 0, Refusal(reasons.BAD_DEVICE, str(error)))
        key = str(device_id)
        return Device(device_id, key, slots.slot_of(key, self._slot_count))

    def _wrong_types(self, portion: Portion) -> Bools | None:
        if not portion.wrong_types:
            return None
        found = np.zeros((portion.row_count, len(self._contract.values)), np.bool_)
        for row, value in portion.wrong_types:
            found[row, value] = True
        return found

    def _why(self, readings: Readings, text: str | None, row: int) -> Refusal:
        """Of several reasons the first in this order, which is that of `transform.items`."""
        device = readings.devices[readings.codes[row]]
        name = self._contract.time.name
        refusal: Refusal | None = device.refusal
        if refusal is not None:
            return refusal
        if not text:
            return Refusal(reasons.MISSING_TIME, f"{name} is missing", device.key)
        if readings.event_us[row] == times.BAD:
            error = f"{name} is no RFC 3339 time since 1970: {shown(text)}"
            return Refusal(reasons.BAD_TIME, error, device.key)
        ahead = (readings.event_us[row] - readings.arrival_us[row]) / MICROSECONDS
        error = f"{name} is {ahead:.0f} s ahead of its arrival"
        return Refusal(reasons.FUTURE, error, device.key)


def refused_row(portion: Portion, readings: Readings, row: int, refusal: Refusal) -> Refused:
    """A row that was decoded but is refused: with the bytes of its item."""
    place, number = int(readings.places[row]), int(readings.rows[row])
    return Refused(place, number, refusal, portion.item_bytes(place, number))
