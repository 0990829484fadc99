"""Settings of the anomaly service: environment variables ANOMALY_*."""

from typing import Self

from pydantic import model_validator

from anomaly import alerting, episodes, groups
from anomaly.detection import ensemble, forest, monitor, novelty, rules
from telemill import api_keys, contract, names, settings
from telemill.stages import service

_TUNING = monitor.Tuning()
_NOVELTY = novelty.Tuning()
_HYSTERESIS = episodes.Hysteresis()
_POLICY = alerting.Policy()


class AnomalySettings(service.StageSettings):
    """What the service reads, scores with and writes to."""

    model_config = settings.config("ANOMALY_")

    app_id: str = settings.default(service.StageSettings, "app_id", "anomaly")
    input_stream: str = settings.default(
        service.StageSettings, "input_stream", names.READINGS_STREAM
    )
    output_stream: str = settings.default(
        service.StageSettings, "output_stream", names.SCORES_STREAM
    )
    alert_topic: str = settings.setting(
        names.ALERT_TOPIC, unit="SNS topic", description="Name or ARN of where alerts go."
    )
    threshold: float = settings.setting(
        ensemble.THRESHOLD,
        unit="score",
        description="From here a reading is an anomaly.",
        gt=0,
        lt=1,
    )
    smoothing: float = settings.setting(
        _TUNING.smoothing, unit="weight", description="Of the newest reading.", gt=0, le=1
    )
    memory_rows: int = settings.setting(
        _TUNING.spread_rows, unit="readings", description="Length of the reference.", ge=10
    )
    warm_up_rows: int = settings.setting(
        _TUNING.warm_up_rows, unit="readings", description="Per device before scores.", ge=3
    )
    relearn_after_rows: int = settings.setting(
        _TUNING.relearn_after_rows,
        unit="readings",
        description="In a row above the threshold after which they are the new normal.",
        ge=1,
    )
    forest: bool = settings.setting(
        False,
        unit="yes or no",
        description="Score with a Random Cut Forest, too: 0.25 MB a device and five times the CPU.",
    )
    open_after_rows: int = settings.setting(
        _HYSTERESIS.open_after_rows, unit="readings", description="That open an alert.", ge=1
    )
    close_after_rows: int = settings.setting(
        _HYSTERESIS.close_after_rows, unit="readings", description="That close an alert.", ge=1
    )
    cool_down_seconds: float = settings.setting(
        _HYSTERESIS.cool_down_seconds,
        unit="seconds",
        description="After a closed alert before the device can raise another.",
        ge=0,
    )
    update_seconds: float = settings.setting(
        _POLICY.update_seconds,
        unit="seconds",
        description="Of event time between messages about an open alert that lasts; 0: none.",
        ge=0,
    )
    group_devices: int = settings.setting(
        _POLICY.grouping.least_devices,
        unit="devices",
        description="Of one shard that open within the window and become one alert; 0: none do.",
        ge=0,
    )
    group_window_seconds: float = settings.setting(
        _POLICY.grouping.window_seconds,
        unit="seconds",
        description="How long an alert waits for other devices', by arrival.",
        gt=0,
    )

    limit_seconds: float = settings.setting(
        3600.0,
        unit="seconds",
        description="So long before a drifting value reaches a limit of the contract it is said;"
        " 0: never.",
        ge=0,
    )
    api_key_hashes: str = settings.setting(
        "",
        unit="name:sha256",
        description="Keys that may mute and acknowledge, separated by commas, as"
        " `telemill-ingest key` makes them. Empty: nobody.",
    )

    @property
    def keys(self) -> tuple[api_keys.ApiKey, ...]:
        """Who may use the HTTP API; raises ConfigurationError for an entry that is wrong."""
        return api_keys.parse_keys(self.api_key_hashes, "ANOMALY_API_KEY_HASHES")

    def check(self) -> str:
        """See `Settings.check`."""
        return f"{super().check()}, {len(self.keys)} API keys"

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        if self.warm_up_rows > self.memory_rows:
            raise ValueError("warm_up_rows must not be larger than memory_rows")
        return self

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group_devices == 1:
            raise ValueError("group_devices must be 0 or at least 2: one device is no group")
        return self

    def detector(self, readings: contract.Contract) -> ensemble.Ensemble:
        """The detector for a contract's readings."""
        monitoring = monitor.Tuning(
            smoothing=self.smoothing,
            level_rows=self.memory_rows // 2,
            spread_rows=self.memory_rows,
            warm_up_rows=self.warm_up_rows,
            prior_warm_up_rows=min(_TUNING.prior_warm_up_rows, self.warm_up_rows),
            relearn_after_rows=self.relearn_after_rows,
            interval_seconds=readings.interval_seconds,
        )
        novel = novelty.Tuning(warm_up_rows=min(_NOVELTY.warm_up_rows, self.warm_up_rows))
        ruled = rules.Tuning(
            warm_up_rows=self.warm_up_rows,
            memory_rows=self.memory_rows,
            hints={at: each.hints for at, each in enumerate(readings.measures)},
        )
        trees = forest.Tuning(
            warm_up_rows=self.warm_up_rows,
            memory_rows=self.memory_rows,
            relearn_after_rows=self.relearn_after_rows,
        )
        return ensemble.default(
            len(readings.measures), monitoring, novel, ruled, trees if self.forest else None
        )

    @property
    def policy(self) -> alerting.Policy:
        """The alerts' constants."""
        return alerting.Policy(
            episodes.Hysteresis(
                open_after_rows=self.open_after_rows,
                close_after_rows=self.close_after_rows,
                cool_down_seconds=self.cool_down_seconds,
            ),
            self.update_seconds,
            groups.Grouping(self.group_devices, self.group_window_seconds),
        )
