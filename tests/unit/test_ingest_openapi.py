"""The OpenAPI document against the handlers."""

import json
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from ingest import openapi, problem, push
from telemill import contract, health

FMS = contract.load(Path("contracts/fms.yaml"))
LIMITS = push.Limits()


def document() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    """As served."""
    return json.loads(json.dumps(openapi.document(FMS, LIMITS)))


def references(node: object) -> list[str]:
    """Every $ref in a document."""
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [each for value in node.values() for each in references(value)]
    if isinstance(node, list):
        return [each for value in node for each in references(value)]
    return []


def test_every_reference_leads_somewhere() -> None:
    """No $ref names a schema that is not there."""
    for reference in references(document()):
        node: object = document()
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(node, dict)
            node = node[part]


def test_describes_the_routes_there_are() -> None:
    """The paths and methods are those the application serves, health and metrics apart."""
    app = health.ops_app(health.Health(), CollectorRegistry())
    floor = {route.resource.canonical for route in app.router.routes() if route.resource}
    app.router.add_post(push.PATH, _handler)
    openapi.add_routes(app, FMS, LIMITS)
    served = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.resource.canonical not in floor and route.method != "HEAD"
    }
    described = {(path, method) for path, item in document()["paths"].items() for method in item}
    assert served == described


async def _handler(_request: web.Request) -> web.Response:
    return web.Response()


def test_a_reading_is_described_by_the_contract() -> None:
    """Each field is there with its type and unit; only what is required is required."""
    reading = document()["components"]["schemas"]["Reading"]
    properties = reading["properties"]
    assert set(properties) == {each.name for each in FMS.fields}
    assert set(reading["required"]) == {"time", "DeviceId"}
    assert properties["DeviceId"]["type"] == "integer"
    assert "°C" in properties["sensor1"]["description"]


@pytest.mark.parametrize("name", problem.KINDS)
def test_every_problem_is_described(name: str) -> None:
    """Each kind's URN and status are in the document, with problem+json as its type."""
    described = document()
    kinds = described["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert problem.TYPE_PREFIX + name in kinds
    if name in openapi.PUSH_PROBLEMS:
        responses = described["paths"][push.PATH]["post"]["responses"]
        assert list(responses[str(problem.KINDS[name].status)]["content"]) == [problem.CONTENT_TYPE]


def test_a_problem_lists_a_bounded_number_of_errors() -> None:
    """A thousand bad items make one answer of bearable size which says how many it omits."""
    errors = [problem.ItemError(index, "schema", "no device") for index in range(1000)]
    answer = problem.ProblemError("not-readings", "bad", errors=errors).response()
    members = json.loads(answer.body or b"")
    assert len(members["errors"]) == problem.MAX_ERRORS
    assert members["errors_omitted"] == 900
    assert members["status"] == answer.status == 422
