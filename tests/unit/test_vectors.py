"""The committed vectors say what the codecs do, and the script that made them still makes them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from telemill.codec import raw, wire
from telemill.kinesis.records import Record, Shard

HERE = Path(__file__).parents[1] / "vectors"
EXPECTED = json.loads((HERE / "expected.json").read_text())
SHARD = Shard("readings-raw", 1, "shardId-000000000000")


def load_make() -> ModuleType:
    """The script as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location("vectors_make", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()
MADE = make.vectors()


def items(data: bytes) -> list[list[str]]:
    """The items of each user record, in hexadecimal."""
    documents, _ = raw.documents(Record("1", 0, data, "1"), SHARD)
    return [[item.hex() for item in raw.lines(document.data)] for document in documents]


def test_every_vector_is_committed() -> None:
    """The script writes the files that are here and no others."""
    here = {str(path.relative_to(HERE)) for path in HERE.rglob("*.*") if path.suffix != ".pyc"}
    assert here - {"make.py"} == set(MADE)


@pytest.mark.parametrize("name", sorted(make.REPRODUCIBLE))
def test_reproducible_vectors_are_made_byte_equal(name: str) -> None:
    """What no library's version can change comes out as it was committed."""
    assert MADE[name] == (HERE / name).read_bytes()


@pytest.mark.parametrize("name", EXPECTED["raw"])
def test_raw_vectors_decode_to_what_is_expected(name: str) -> None:
    """The committed file and the one made now hold the expected items."""
    assert items((HERE / name).read_bytes()) == EXPECTED["raw"][name]
    assert items(MADE[name]) == EXPECTED["raw"][name]


@pytest.mark.parametrize("name", EXPECTED["wire"])
def test_internal_vectors_decode_to_what_is_expected(name: str) -> None:
    """The committed file and the one made now hold the expected header and rows."""
    for data in ((HERE / name).read_bytes(), MADE[name]):
        header, batch = wire.decode(data, make.schema)
        assert header == make.WIRE_HEADERS[name]
        assert batch.equals(make.batch(name))
        rows = json.loads(json.dumps(batch.to_pylist(), default=lambda time: time.isoformat()))
        assert rows == EXPECTED["wire"][name]["rows"]
