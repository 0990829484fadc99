"""The Faust app: one agent hands chunks of the input stream to the stage."""

from sink.settings import SinkSettings
from telemill.kinesis import transport
from telemill.kinesis.coordinators.base import Coordinator
from telemill.stages.owner import ShardOwner


def create_app(
    settings: SinkSettings, coordinator: Coordinator, stage: ShardOwner
) -> transport.App:
    """The app, wired but not started."""
    app = transport.create_app(settings.application, coordinator=coordinator)
    transport.add_agent(app, stage.process, name="sink")
    return app
