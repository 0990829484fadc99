"""What a reading is: loaded from one file, and everything else is derived from it.

Reading order: `field` (one field and its quality bits), `model` (the contract and what is derived),
`reader` (the file, and every way it can be wrong), `versions` (what may change).
"""

from telemill.contract.field import (
    MAX_VALUE_FIELDS,
    QUALITY_IMPUTED,
    QUALITY_LATE,
    Field,
)
from telemill.contract.model import TABLES, Contract, Table
from telemill.contract.reader import load, loads
from telemill.contract.versions import compatible

__all__ = [
    "MAX_VALUE_FIELDS",
    "QUALITY_IMPUTED",
    "QUALITY_LATE",
    "TABLES",
    "Contract",
    "Field",
    "Table",
    "compatible",
    "load",
    "loads",
]
