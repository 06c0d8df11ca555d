"""Tables of what a service tells any client of itself: they stay the same whichever module the code is in."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from docs.tables import describe_type, table
from service.api.problems import REFUSALS, TYPE_PREFIX
from service.app import create_app
from service.server.rpc.failing import code_of
from service.settings import Settings

SENT = "application/problem+json"
FIRST_ERROR = 400  # of the statuses
EXAMPLE = Path("examples/two-utterances.json")


@cache
def ask(path: str, *, is_known: bool = True) -> str:
    """Return what a service with all kinds of access answers to a GET after one request, with a key or without."""
    key, admin = "k" * 32, "a" * 32
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(api_keys=key, admin_key=admin, cache_dir=folder, runners=1, threads=1, log_requests=False)
        with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
            example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
            client.post("/encode", json=example).raise_for_status()
            headers = {} if is_known else {"Authorization": ""}
            return client.get(path, headers=headers).raise_for_status().text


@cache
def read_document() -> Any:
    """Return the OpenAPI document as it is whatever is served: as strangers get it."""
    return json.loads(ask("/openapi.json", is_known=False))


def list_operations() -> list[tuple[str, str, Any]]:
    """Return method, path and description of each operation."""
    paths = read_document()["paths"].items()
    return [(method.upper(), path, operation) for path, methods in paths for method, operation in methods.items()]


def find_encode() -> Any:
    """Return the operation `POST /encode`."""
    return read_document()["paths"]["/encode"]["post"]


def write_metrics() -> str:
    """Write each metric with its type and labels."""
    rows = []
    for family in text_string_to_metric_families(ask("/metrics")):
        if family.name.startswith("lengthwise_"):
            labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
            suffix = "_total" if family.type == "counter" else ""
            named = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{family.name}{suffix}`", family.type, named, family.documentation))
    return table(["metric", "type", "labels", "what it is"], rows)


@dataclass(slots=True)
class _Kind:
    """A kind of problem.

    Attributes:
        title: what happened.
        meaning: the same at more length.
        native: statuses of `application/problem+json`.
        others: statuses in the dialects of other clients.
    """

    title: str
    meaning: str
    native: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


def list_problems() -> Iterator[tuple[str, str, str, Any]]:
    """Yield the status, the media type, the name and the example of each problem of each operation."""
    for _, _, operation in list_operations():
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items() if int(status) >= FIRST_ERROR else ():
                for name, example in content.get("examples", {}).items():
                    yield status, media_type, name, example


def write_problems() -> str:
    """Write each kind of problem with its statuses."""
    kinds: dict[str, _Kind] = {}
    for status, media_type, name, example in list_problems():
        value = example["value"]
        error = value.get("error", "")  # in the dialects of KServe and OpenAI
        meaning = value.get("detail") or (error if isinstance(error, str) else error["message"])
        kind = kinds.setdefault(name, _Kind(example["summary"], meaning))
        (kind.native if media_type == SENT else kind.others).add(status)
    for error, refusal in REFUSALS.items():  # what only gRPC tells is in no answer of the document
        kinds.setdefault(refusal.name, _Kind(refusal.title, error.__doc__ or ""))
    rows = []
    for name, kind in sorted(kinds.items(), key=lambda one: (min(one[1].native or one[1].others, default="9"), one[0])):
        meaning = "" if kind.meaning == f"{kind.title}." else kind.meaning
        statuses = [" or ".join(sorted(some)) for some in (kind.native, kind.others)]
        code = code_of(TYPE_PREFIX + name, 0).name
        rows.append((f"`{name}`", *statuses, code, f"**{kind.title}.** {meaning}"))
    return table(["`urn:lengthwise:problem:`...", "status", "in other dialects", "gRPC", "what it says"], rows)


def write_routes() -> str:
    """Write each operation with who may ask for it."""
    rows = []
    for method, path, operation in list_operations():
        access = next((name for one in operation.get("security", []) for name in one), "")
        who = {"": "anyone", "key": "a key, if there are keys", "admin_key": "the admin's key"}[access]
        rows.append((f"`{method} {path}`", who, operation["summary"]))
    return table(["operation", "who may ask", "what it does"], rows)


def write_fields(schema_name: str) -> str:
    """Write the fields of a schema of the document."""
    schema = read_document()["components"]["schemas"][schema_name]
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", describe_type(one), "yes" if name in required else "no", one.get("description", ""))
        for name, one in schema["properties"].items()
    ]
    if not required:
        return table(["field", "type", "what it is"], [(name, kind, text) for name, kind, _, text in rows])
    return table(["field", "type", "always there", "what it is"], rows)


def write_parameters() -> str:
    """Write the headers and the options in the query that `POST /encode` takes."""
    rows = [
        (f"`{one['name']}`", one["in"], describe_type(one["schema"]), one.get("description", ""))
        for one in find_encode()["parameters"]
    ]
    return table(["name", "in", "type", "what it is"], rows)


def write_headers() -> str:
    """Write the headers of an answer."""
    headers = find_encode()["responses"]["200"]["headers"].items()
    return table(["header", "what it is"], [(f"`{name}`", one["description"]) for name, one in headers])


def write_formats() -> str:
    """Write the kinds of body that `POST /encode` takes, and those it answers with."""
    operation = find_encode()
    bodies, answers = operation["requestBody"]["content"], operation["responses"]["200"]["content"]

    def describe(contents: Any, kind: str) -> str:
        if kind not in contents:
            return "no"
        return str(contents[kind]["schema"].get("description", "as [the HTTP API](http.md) says"))

    kinds = dict.fromkeys([*bodies, *answers])
    rows = [(f"`{kind}`", describe(bodies, kind), describe(answers, kind)) for kind in kinds]
    return table(["kind", "as a body", "as an answer"], rows)
