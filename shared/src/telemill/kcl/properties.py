"""The files the MultiLangDaemon reads: its properties and its log configuration. Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from telemill import errors

TRIM_HORIZON = "TRIM_HORIZON"
AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")
DEFAULT_FAILOVER_MILLIS = 5_000
"""Half of the KCL's own default: a worker that died is noticed after one to four times as long."""
DEFAULT_LEASE_ASSIGNMENT_MILLIS = 3_000
"""KCL 3 only. Its default is twice the fail-over time; docs/scaling.md says what that costs."""
DEFAULT_SHUTDOWN_GRACE_MILLIS = 30_000
DEFAULT_IDLE_MILLIS = 500
"""Two GetRecords a second and shard, as the `single` coordinator does."""
DEFAULT_MAX_RECORDS = 10_000
MAX_LEASES_TO_STEAL = 16
SHARD_SYNC_MILLIS = 1_000
"""The KCL rests so long after it made leases for new shards: at its default, the first start of an
application takes a minute more."""
PARENT_POLL_MILLIS = 1_000
"""How long children wait at most after their parent's end is checkpointed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """What a daemon is told.

    Attributes:
        application: Names the lease table.
        stream: Name of the stream; its ARN when it is another account's.
        worker_id: Owner in the lease table; a worker that comes back under it has its leases.
        region: AWS region.
        kinesis_endpoint: None: AWS's own.
        dynamodb_endpoint: None: AWS's own.
        initial_position: Where shards without a lease begin: TRIM_HORIZON, or epoch seconds.
        fan_out: Enhanced fan-out; polling otherwise.
        max_records: Most records of one GetRecords.
        idle_millis: Between two GetRecords of a shard.
        failover_millis: A lease not renewed for so long is anyone's.
        lease_assignment_millis: How often KCL 3's leader assigns leases.
        shutdown_grace_millis: How long a daemon asked to stop waits for its shards; at least the
            worker's drain.
        max_leases: Most shards of this worker; None: no bound.
    """

    application: str
    stream: str
    worker_id: str
    region: str
    kinesis_endpoint: str | None = None
    dynamodb_endpoint: str | None = None
    initial_position: str | int = TRIM_HORIZON
    fan_out: bool = False
    max_records: int = DEFAULT_MAX_RECORDS
    idle_millis: int = DEFAULT_IDLE_MILLIS
    failover_millis: int = DEFAULT_FAILOVER_MILLIS
    lease_assignment_millis: int = DEFAULT_LEASE_ASSIGNMENT_MILLIS
    shutdown_grace_millis: int = DEFAULT_SHUTDOWN_GRACE_MILLIS
    max_leases: int | None = None

    @property
    def speaks_cbor(self) -> bool:
        """Whether the daemon may use Kinesis's binary form; emulators tell other times in it.

        Seen in one: seconds where the SDK reads milliseconds, and all readings come from 1970.
        """
        host = urlsplit(self.kinesis_endpoint or "").hostname
        return host is None or host.endswith(AWS_DOMAINS)

    def __post_init__(self) -> None:
        """Refuse what the daemon would take for something else.

        Raises:
            ConfigurationError: An endpoint is no URL, or a position neither name nor time.
        """
        for endpoint in (self.kinesis_endpoint, self.dynamodb_endpoint):
            if endpoint is not None and urlsplit(endpoint).scheme not in {"http", "https"}:
                raise errors.ConfigurationError(
                    f"AWS_ENDPOINT_URL: got {endpoint}; takes an http(s) URL"
                )
        if isinstance(self.initial_position, str) and self.initial_position != TRIM_HORIZON:
            raise errors.ConfigurationError(
                f"initial position: got {self.initial_position}; the daemon takes {TRIM_HORIZON}"
                " or a time (LATEST would be another moment after every early crash)"
            )


def render(settings: DaemonSettings, executable: str) -> str:
    """The properties file.

    Args:
        settings: What to say.
        executable: The child of each shard; the daemon splits it at spaces.
    """
    lines = {
        "executableName": executable,
        "processingLanguage": "python",
        **_what(settings),
        **_position(settings.initial_position),
        **_retrieval(settings),
        **_leases(settings),
        # Windows for checkpoints must come on an idle shard too.
        "callProcessRecordsEvenForEmptyRecordList": True,
        "shutdownGraceMillis": settings.shutdown_grace_millis,
        "parentShardPollIntervalMillis": PARENT_POLL_MILLIS,
        "shardSyncIntervalMillis": SHARD_SYNC_MILLIS,
        # Ours are exposed; the KCL's would be CloudWatch calls and their cost.
        "metricsLevel": "NONE",
    }
    return "".join(f"{name} = {_escape(value)}\n" for name, value in lines.items())


def _what(settings: DaemonSettings) -> dict[str, object]:
    is_arn = settings.stream.startswith("arn:")
    endpoints = {
        "kinesisEndpoint": settings.kinesis_endpoint,
        "dynamoDBEndpoint": settings.dynamodb_endpoint,
    }
    return {
        "applicationName": settings.application,
        "streamArn" if is_arn else "streamName": settings.stream,
        "workerId": settings.worker_id,
        "regionName": settings.region,
        "AwsCredentialsProvider": "DefaultCredentialsProvider",
        **{name: endpoint for name, endpoint in endpoints.items() if endpoint is not None},
    }


def _position(initial_position: str | int) -> dict[str, object]:
    if isinstance(initial_position, int):
        return {"initialPositionInStreamExtended": initial_position}
    return {"initialPositionInStream": initial_position}


def _retrieval(settings: DaemonSettings) -> dict[str, object]:
    if settings.fan_out:
        return {"retrievalMode": "FANOUT"}
    return {
        "retrievalMode": "POLLING",
        "maxRecords": settings.max_records,
        "idleTimeBetweenReadsInMillis": settings.idle_millis,
    }


def _leases(settings: DaemonSettings) -> dict[str, object]:
    lines: dict[str, object] = {
        "failoverTimeMillis": settings.failover_millis,
        # KCL 2 does not know the next two, and ignores them.
        "leaseAssignmentIntervalMillis": settings.lease_assignment_millis,
        "gracefulLeaseHandoffTimeoutMillis": settings.shutdown_grace_millis,
        # KCL 2: at its default of one a round, a new worker among many shards waits for minutes.
        "maxLeasesToStealAtOneTime": MAX_LEASES_TO_STEAL,
    }
    if settings.max_leases is not None:
        lines["maxLeasesForWorker"] = settings.max_leases
    return lines


def _escape(value: object) -> str:
    """A value as java.util.Properties reads it: ISO 8859-1, everything else as escapes."""
    if isinstance(value, bool):
        return str(value).lower()
    units = str(value).replace("\\", "\\\\").encode("utf-16-be")
    pairs = (units[index] << 8 | units[index + 1] for index in range(0, len(units), 2))
    return "".join(chr(unit) if 0x20 <= unit < 0x7F else f"\\u{unit:04x}" for unit in pairs)


LOGBACK = """\
<configuration>
  <appender name="stderr" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder>
      <charset>UTF-8</charset>
      <pattern>%nopex%level %logger{0} %.-4000(%replace(\
%replace(%msg %ex){'"data":"[^"]*"', '"data":"..."'}){'[\\r\\n]+', ' | '}) %n</pattern>
    </encoder>
  </appender>
  <!-- One to four lines for every action of every shard: the conversation is ours to log. -->
  <logger name="software.amazon.kinesis.multilang.MessageWriter" level="WARN"/>
  <logger name="software.amazon.kinesis.multilang.MultiLangProtocol" level="WARN"/>
  <logger name="software.amazon.kinesis.multilang.LineReaderTask" level="WARN"/>
  <logger name="software.amazon.kinesis.multilang.config" level="WARN"/>
  <!-- For minutes after a reshard one warning a page; its errors are what a page left out. -->
  <logger name="software.amazon.kinesis.lifecycle.ProcessTask" level="ERROR"/>
  <!-- Two lines for every checkpoint and every renewal. -->
  <logger name="software.amazon.kinesis.leases.dynamodb.DynamoDBLeaseRenewer" level="WARN"/>
  <logger name="software.amazon.kinesis.leases.dynamodb.DynamoDBLeaseRefresher" level="WARN"/>
  <!-- Every second or so, whether anything happened or not. -->
  <logger name="software.amazon.kinesis.leader.DynamoDBLockBasedLeaderDecider" level="WARN"/>
  <logger name="software.amazon.kinesis.coordinator.assignment" level="WARN"/>
  <logger name="software.amazon.kinesis.leases.dynamodb.DynamoDBLeaseDiscoverer" level="WARN"/>
  <logger name="software.amazon.kinesis.coordinator.DiagnosticEventLogger" level="WARN"/>
  <logger name="software.amazon.kinesis.metrics" level="ERROR"/>
  <root level="INFO"><appender-ref ref="stderr"/></root>
</configuration>
"""
"""One line an event: level, logger, message and exception, without what records hold."""
