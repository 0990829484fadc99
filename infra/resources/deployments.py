"""What runs: five deployments of four services, the same on ECS and EKS."""

from dataclasses import dataclass

from telemill import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment of a service.

    Attributes:
        name: Application id: of the deployment, its role, its dimension in CloudWatch.
        service: Which of the four services, and its image.
        reads: Stream it reads, by name; None: it polls and is pushed to.
        writes: Stream it writes; None: it writes tables.
        cpu: Fargate CPU units; 1,024 are one core.
        memory_mib: Memory limit.
        settings: Settings of its own, without the prefix.
    """

    name: str
    service: str
    reads: str | None
    writes: str | None
    cpu: int
    memory_mib: int
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def prefix(self) -> str:
        """Of its environment variables."""
        return f"{self.service.upper()}_"


ALL = (
    Deployment(
        name="ingest",
        service="ingest",
        reads=None,
        writes=names.RAW_STREAM,
        cpu=512,
        memory_mib=1024,
    ),
    Deployment(
        name="transform",
        service="transform",
        reads=names.RAW_STREAM,
        writes=names.READINGS_STREAM,
        cpu=512,
        memory_mib=1024,
    ),
    Deployment(
        name="sink-readings",
        service="sink",
        reads=names.READINGS_STREAM,
        writes=None,
        cpu=512,
        memory_mib=1024,
        settings=(("TABLE", "readings"),),
    ),
    Deployment(
        name="anomaly",
        service="anomaly",
        reads=names.READINGS_STREAM,
        writes=names.SCORES_STREAM,
        cpu=512,
        memory_mib=1024,
    ),
    Deployment(
        name="sink-scores",
        service="sink",
        reads=names.SCORES_STREAM,
        writes=None,
        cpu=512,
        memory_mib=1024,
        settings=(("TABLE", "scores"),),
    ),
)

READERS = tuple(each for each in ALL if each.reads)

HTTP_PORT = 8080
DRAIN_SECONDS = 60
STOP_SECONDS = 90
"""From SIGTERM to SIGKILL: the drain and some room. Fargate allows 120, and Spot warns so early."""
