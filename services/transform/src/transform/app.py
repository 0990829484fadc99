"""The Faust app: one agent hands chunks of the raw stream to the stage."""

from telemill.kinesis import transport
from telemill.kinesis.coordinators.base import Coordinator
from telemill.stages.owner import ShardOwner


def create_app(app_id: str, coordinator: Coordinator, stage: ShardOwner) -> transport.App:
    """The app, wired but not started."""
    app = transport.create_app(app_id, coordinator=coordinator)
    transport.add_agent(app, stage.process, name="transform")
    return app
