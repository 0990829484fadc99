"""The OpenAPI 3.1 document of the push API, made from the contract and the problems there are."""

import json
from typing import Any

from aiohttp import web

from ingest import bodies, problem, push
from telemill.contract import Contract, Field

PATH = "/openapi.json"
_JSON_TYPES = {
    "int64": "integer",
    "float64": "number",
    "bool": "boolean",
    "string": "string",
    "timestamp": "string",
}
PUSH_PROBLEMS = tuple(
    name for name in problem.KINDS if name not in {"not-found", "method-not-allowed"}
)


def document(contract: Contract, limits: push.Limits) -> dict[str, Any]:
    """The document.

    Args:
        contract: What a reading is.
        limits: Stated where they apply.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Telemill ingest",
            "version": "1",
            "summary": f"Takes readings of contract {contract.name} version {contract.version}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            push.PATH: {"post": _post(limits)},
            PATH: {"get": _get("This document.", "OpenAPI 3.1")},
        },
        "components": {
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Reading": _reading(contract),
                "Accepted": _ACCEPTED,
                "ItemError": _ITEM_ERROR,
                "Problem": _PROBLEM,
            },
        },
    }


def add_routes(app: web.Application, contract: Contract, limits: push.Limits) -> None:
    """Serve the document."""
    body = json.dumps(document(contract, limits), ensure_ascii=False).encode()

    async def get_document(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app.router.add_get(PATH, get_document)


def _post(limits: push.Limits) -> dict[str, Any]:
    return {
        "operationId": "postReadings",
        "summary": "Push readings.",
        "description": (
            "One reading, an array of readings or NDJSON. 202 means Kinesis has acknowledged all"
            " of them. Sending the same readings again does no harm: they are duplicates. At most"
            f" {limits.max_items} readings and {limits.max_body_bytes} bytes, also decompressed."
        ),
        "security": [{"apiKey": []}],
        "parameters": [_PARTIAL, _CONTENT_ENCODING],
        "requestBody": {"required": True, "content": _request_content()},
        "responses": {"202": _ACCEPTED_RESPONSE, **_problem_responses()},
    }


def _request_content() -> dict[str, Any]:
    reading = {"$ref": "#/components/schemas/Reading"}
    one_or_many = {"oneOf": [reading, {"type": "array", "items": reading}]}
    lines = {"type": "string", "description": "One reading a line."}
    return {
        name: {"schema": one_or_many if name == "application/json" else lines}
        for name in bodies.CONTENT_TYPES
    }


def _problem_responses() -> dict[str, Any]:
    by_status: dict[str, list[problem.Kind]] = {}
    for name in PUSH_PROBLEMS:
        kind = problem.KINDS[name]
        by_status.setdefault(str(kind.status), []).append(kind)
    return {
        status: _problem_response(" ".join(kind.description for kind in kinds), status)
        for status, kinds in by_status.items()
    }


def _problem_response(description: str, status: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    response: dict[str, Any] = {
        "description": description,
        "content": {problem.CONTENT_TYPE: {"schema": schema}},
    }
    if status in {"429", "503"}:
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    return response


def _get(summary: str, description: str) -> dict[str, Any]:
    return {
        "operationId": "getDocument",
        "summary": summary,
        "responses": {
            "200": {
                "description": description,
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }


def _reading(contract: Contract) -> dict[str, Any]:
    return {
        "type": "object",
        "description": contract.description,
        "required": [each.name for each in contract.fields if each.required],
        "properties": {each.name: _property(each) for each in contract.fields},
        "additionalProperties": True,
    }


def _property(field: Field) -> dict[str, Any]:
    unit = f" [{field.unit}]" if field.unit else ""
    valid = f" Valid: {field.range_text}; others are flagged." if field.range_text else ""
    described = {"description": f"{field.description}{unit}.{valid}"}
    if field.type == "timestamp":
        described["format"] = "date-time"
    json_type = _JSON_TYPES[field.type]
    return {"type": json_type if field.required else [json_type, "null"], **described}


_PARTIAL = {
    "name": "partial",
    "in": "query",
    "description": "Write the good items of a body although others cannot be readings.",
    "schema": {"type": "boolean", "default": False},
}
_CONTENT_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "description": "How the body is compressed.",
    "schema": {"type": "string", "enum": ["identity", *bodies.CODINGS]},
}
_ITEM_ERROR = {
    "type": "object",
    "required": ["index", "reason", "error"],
    "properties": {
        "index": {"type": "integer", "description": "Place in the body, from 0."},
        "reason": {"type": "string", "enum": ["decode", "schema", "too_large"]},
        "error": {"type": "string"},
    },
}
_ERRORS = {
    "errors": {
        "type": "array",
        "maxItems": problem.MAX_ERRORS,
        "items": {"$ref": "#/components/schemas/ItemError"},
    },
    "errors_omitted": {"type": "integer", "description": "Errors not listed."},
}
_ACCEPTED = {
    "type": "object",
    "required": ["accepted"],
    "properties": {
        "accepted": {"type": "integer", "description": "Readings Kinesis acknowledged."},
        "refused": {"type": "integer", "description": "With partial=true: items not written."},
        **_ERRORS,
    },
}
_ACCEPTED_RESPONSE = {
    "description": "Kinesis has acknowledged the readings.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}},
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "enum": [problem.TYPE_PREFIX + name for name in problem.KINDS],
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        **_ERRORS,
    },
}
