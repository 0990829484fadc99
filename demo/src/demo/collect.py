"""What the run left behind: the audit's sources, by the names the demo uses."""

from telemill.audit.sources import (
    download,
    quarantined,
    read_raw,
    served_bodies,
    stored_rows,
)

__all__ = ["download", "quarantined", "read_raw", "served_bodies", "stored_rows"]
