"""`python docs/reference/generate_openapi.py [--check]`: writes openapi.json from the routes of an agent's endpoint, or the difference."""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from aios_sidecar.contracts.agents import AgentRecord
from aios_sidecar.gateway.contexts.answers import ROUTES, ContextRoute
from aios_sidecar.gateway.problems import PROBLEM_TYPE, ProblemKind

PAGE = Path(__file__).with_name("openapi.json")
REFERENCE = "#/components/schemas/{model}"
ABOUT = (
    "What answers an agent at its Unix socket (AIOS_SOCKET) and at http://127.0.0.1:2489. Who asks is known by the listener: "
    "there is no authentication, and nothing here is reachable from outside the agent's pod."
)
PROBLEM = {
    "description": "RFC 9457. Programs compare `reason`.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason", "nextStep"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "About this request: the field, and what must be true."},
        "reason": {"type": "string", "enum": sorted(kind.value for kind in ProblemKind)},
        "nextStep": {"type": "string"},
    },
}
PROBLEMS = {"default": {"description": "A refusal.", "content": {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(model="Problem")}}}}}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "1 to 128 printable characters. A second request with the same key and items appends nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}


def document() -> dict[str, Any]:
    """The whole OpenAPI document."""
    taken = [model for route in ROUTES for model in (route.request, route.query) if model is not None]
    given = [AgentRecord, *(route.result for route in ROUTES if route.result is not None)]
    named, schemas = models_json_schema(
        [*((model, "validation") for model in dict.fromkeys(taken)), *((model, "serialization") for model in dict.fromkeys(given))],
        ref_template=REFERENCE,
    )
    references: dict[type[BaseModel], Any] = {model: reference for (model, _), reference in named.items()}
    definitions = schemas["$defs"]
    paths: dict[str, dict[str, Any]] = {"/v1/agent": {"get": _operation("agent", "Who this agent is.", references[AgentRecord])}}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _of(route, references, definitions)
    return {
        "openapi": "3.1.0",
        "info": {"title": "An agent's endpoint", "version": "v1", "description": ABOUT},
        "servers": [{"url": "http://127.0.0.1:2489"}],
        "paths": paths,
        "components": {"schemas": {**definitions, "Problem": PROBLEM}},
    }


def _of(route: ContextRoute, references: dict[type[BaseModel], Any], definitions: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(route.name, route.summary, references[route.result] if route.result else {"type": "object"})
    parameters = [IDEMPOTENCY] if route.name == "context_append" else []
    if route.query is not None:
        schema = definitions[references[route.query]["$ref"].rpartition("/")[2]]
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in required, "schema": field})
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": references[route.request]}}}
    return operation


def _operation(name: str, summary: str, result: Any) -> dict[str, Any]:
    answered = {"description": "Done.", "content": {"application/json": {"schema": result}}}
    success = {"200": answered, "201": answered} if name == "context_append" else {"200": answered}
    return {"operationId": name, "summary": summary, "responses": {**success, **PROBLEMS}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="generate_openapi.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 and a diff when the document is not as generated")
    options = parser.parse_args()
    wanted = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if not options.check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    present = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    name = "docs/reference/openapi.json"
    sys.stdout.writelines(difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), name, f"{name} (generated)"))
    return 0 if present == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
