"""`make demo`: start everything, show it, stop it, audit it, report it."""

import json
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from rich.console import Console
from rich.live import Live

from demo import collect, evaluate, injections, queries, report, status, topology
from demo.settings import DemoSettings
from telemill import contract, errors, names, provision, settings
from telemill.testing import emulator, processes
from telemill.testing.processes import Process, Spec

LINE_SECONDS = 5.0
STATUS_SECONDS = 1.0
START_TIMEOUT_SECONDS = 120.0
CATCH_UP_TIMEOUT_SECONDS = 60.0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""

console = Console(highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit status says whether the audit held."""
    chosen = settings.load(
        DemoSettings,
        sys.argv[1:] if argv is None else argv,
        prog="demo",
        description="The whole path on this machine, with no AWS account.",
    )
    # SIGTERM as Ctrl-C (which a shell's background job ignores): the children are stopped, not
    # left behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return Demo(chosen).run()
    except errors.ConfigurationError as error:
        sys.stderr.write(f"demo: {error}\n")
        return EXIT_CONFIGURATION
    except processes.EndedEarlyError as error:
        sys.stderr.write(f"demo: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; everything it started is stopped\n")
        return EXIT_INTERRUPTED


class Demo:
    """One run, from an empty folder to the report."""

    def __init__(self, chosen: DemoSettings) -> None:
        """Prepare the folder."""
        self.settings = chosen
        self.directory = chosen.directory.absolute()
        self.logs = self.directory / "logs"
        self.services: dict[str, Process] = {}

    def run(self) -> int:
        """Everything, in order."""
        self._empty_directory()
        with emulator.running(self.directory / "emulator") as aws:
            os.environ.update(emulator.aws_environment(aws.url))
            console.print(f"AWS emulator   {aws.url}")
            topic = self._provision()
            alerts = _subscribe(topic)
            with self._running(topic):
                started = time.monotonic()
                try:
                    self._flow()
                    if self.settings.keep:
                        self._keep(aws.url)
                except KeyboardInterrupt:
                    console.print("\nstopping")
                flowed_seconds = time.monotonic() - started
                self._stop_in_data_order()
            return self._evaluate(alerts, flowed_seconds)

    def _empty_directory(self) -> None:
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.logs.mkdir(parents=True)

    def _provision(self) -> str:
        resources = provision.Resources(shard_count=self.settings.shards)
        return provision.provision(resources, lambda line: console.print(f"created        {line}"))

    @contextmanager
    def _running(self, topic: str) -> Iterator[None]:
        try:
            specs = topology.specs(self.settings, self.directory, topic)
            for spec in specs[:-1]:
                self._start(spec)
            self._wait_until_ready([status.Stage(each) for each in self._pipeline()])
            # Last, so that no reading waits for a service to start.
            self._start(specs[-1])
            yield
        finally:
            processes.stop_in_order([each for each in self.services.values() if each.is_running()])

    def _start(self, spec: Spec) -> None:
        self.services[spec.name] = Process(spec, self.logs)
        console.print(f"started        {spec.name:14} {spec.url}")

    def _flow(self) -> None:
        """Let readings flow for the demo's seconds, counted from when all are ready."""
        stages = [status.Stage(each) for each in self._pipeline()]
        self._wait_until_ready(stages)
        started = time.monotonic()
        to_inject = True
        with _display(self.settings.seconds) as show:
            while (elapsed := time.monotonic() - started) < self.settings.seconds:
                self._check_running()
                if to_inject and elapsed >= injections.FROM_SHARE * self.settings.seconds:
                    to_inject = False
                    self._inject()
                for stage in stages:
                    stage.update(time.monotonic())
                show(stages, elapsed)
                time.sleep(STATUS_SECONDS)

    def _inject(self) -> None:
        seconds = injections.LASTS_SHARE * self.settings.seconds
        injections.inject(
            self.services[topology.SIMULATOR].spec.url,
            self.settings.devices,
            max(1, int(seconds / self.settings.interval_seconds)),
        )

    def _wait_until_ready(self, stages: list[status.Stage]) -> None:
        def all_ready() -> bool:
            self._check_running()
            for stage in stages:
                stage.update(time.monotonic())
            return all(stage.value("ready") for stage in stages)

        if not processes.wait_until(all_ready, START_TIMEOUT_SECONDS):
            waiting = [each.process.spec.name for each in stages if not each.value("ready")]
            raise processes.EndedEarlyError(f"not ready in time: {', '.join(waiting)}")

    def _pipeline(self) -> list[Process]:
        return [each for name, each in self.services.items() if name != topology.SIMULATOR]

    def _check_running(self) -> None:
        for process in self.services.values():
            if not process.is_running():
                raise processes.EndedEarlyError(
                    f"{process.spec.name} ended early; {process.log_path}:\n{process.tail()}"
                )

    def _keep(self, aws_url: str) -> None:
        console.print("\nstill running. In another terminal:\n")
        for name, value in emulator.aws_environment(aws_url).items():
            console.print(f"  export {name}={value}")
        push = f"{self.services[topology.INGEST].spec.url}/v1/readings"
        body = json.dumps({"time": datetime.now(UTC).isoformat(), "DeviceId": 1, "sensor1": 80.5})
        console.print(
            f"\n  curl -H 'Authorization: Bearer {topology.PUSH_KEY}'"
            f" -H 'Content-Type: application/json' -d '{body}' {push}\n",
            soft_wrap=True,
        )
        for process in self.services.values():
            console.print(f"  {process.spec.name:14} {process.spec.url}/metrics")
        console.print("\nCtrl-C stops it and writes the report")
        while True:
            self._check_running()
            time.sleep(STATUS_SECONDS)

    def _stop_in_data_order(self) -> None:
        """SIGTERM each service once its input is used up, so that nothing waits in a stream."""
        for group in topology.STOP_ORDER:
            for app, stream in group.consumes:
                caught_up = processes.wait_until(
                    lambda app=app, stream=stream: topology.has_consumed(app, stream),  # type: ignore[misc]
                    CATCH_UP_TIMEOUT_SECONDS,
                )
                if not caught_up:
                    console.print(f"[red]{app} did not catch up with {stream}[/red]")
            self.services[group.name].ask_to_stop()
            self.services[group.name].wait()
            console.print(f"stopped        {group.name}")

    def _evaluate(self, alerts: "Alerts", flowed_seconds: float) -> int:
        parquet = self.directory / "parquet"
        for table in contract.TABLES:
            collect.download(names.LAKE_BUCKET, f"{table}/", parquet / table)
        collect.download(names.LAKE_BUCKET, "quarantine/", self.directory / "quarantine")
        athena, duck = queries.through_athena(), queries.through_duckdb(parquet)
        made = evaluate.evaluate(self.settings, self.directory, self.services)
        summary = {
            **made.summary,
            "seconds": round(flowed_seconds, 1),
            "alerts": {kind: alerts.opened(kind) for kind in ("device", "group")},
            "athena_and_duckdb_agree": queries.agree(athena, duck),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        made.figures.queries = [(each.title, each.sql, each.columns, each.rows) for each in duck]
        _write(self.directory, summary, report.page(summary, made.figures))
        evaluate.show(console, summary, athena, made.report, self.directory)
        held = summary["ok"] and summary["athena_and_duckdb_agree"]
        return 0 if held and summary["clean_exit"] else EXIT_FAILED


class Alerts:
    """An SQS queue behind the alert topic: what a subscriber receives."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ids: dict[str, set[str]] = defaultdict(set)

    def opened(self, kind: str) -> int:
        """Distinct alerts of a kind that were opened."""
        sqs = boto3.client("sqs")
        while messages := sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get(
            "Messages", ()
        ):
            for message in messages:
                alert = json.loads(json.loads(message["Body"])["Message"])
                if alert["state"] == "open":
                    self._ids[alert["kind"]].add(alert["alert_id"])
                sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return len(self._ids[kind])


def _subscribe(topic: str) -> Alerts:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="demo-alerts")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=attributes["QueueArn"])
    return Alerts(url)


@contextmanager
def _display(total_seconds: float) -> Iterator[Any]:
    """A function that shows the stages: a live table on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda stages, elapsed: live.update(
                status.table(stages, elapsed, total_seconds), refresh=True
            )
        return
    printed_at = 0.0

    def show(stages: list[status.Stage], elapsed: float) -> None:
        nonlocal printed_at
        if elapsed - printed_at >= LINE_SECONDS:
            printed_at = elapsed
            console.print(status.line(stages, elapsed), soft_wrap=True)

    yield show


def _write(directory: Path, summary: dict[str, Any], page: str) -> None:
    (directory / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n")
    (directory / "report.html").write_text(page)


if __name__ == "__main__":
    sys.exit(main())
