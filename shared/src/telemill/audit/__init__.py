"""The audit: what was served, what Kinesis took and what the tables hold, compared.

Reading order: `model` (what goes in and what is said), `compare` (the comparison; `readings`,
`values`, `duplicates` and `order` are its parts), `alerts` (the rows of episodes), `alone` (what
the tables show by themselves), `sources`, `lake`, `athena` and `committed` (where it comes from).
"""

from telemill.audit.alerts import audit_alerts
from telemill.audit.compare import InFlight, audit, audit_scores
from telemill.audit.model import Lineage, RawItem, Report, ServedBody, StoredRow

__all__ = [
    "InFlight",
    "Lineage",
    "RawItem",
    "Report",
    "ServedBody",
    "StoredRow",
    "audit",
    "audit_alerts",
    "audit_scores",
]
