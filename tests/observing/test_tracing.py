"""Traces: a span for each request in the trace it came with, and one for each batch, linked to its requests."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

from service.observing import tracing
from service.observing.tracing import Tracing
from service.upkeep import traces_are_wanted
from tests.api.test_encode import PAIR
from tests.conftest import draw_sequences
from tests.server.test_grpc import ask, call, make, typed

Serve = Callable[..., TestClient]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Where spans end up, with tracing asked for."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "open_tracing", lambda: Tracing(provider))
    yield exporter
    exporter.clear()


def read_spans(client: TestClient, exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    """Return the spans that ended, by name."""
    client.get("/metrics")  # which settles what was noted
    spans: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        spans.setdefault(span.name, []).append(span)
    return spans


def test_a_request_is_a_span_of_the_trace_it_came_with(serve: Serve, exporter: InMemorySpanExporter) -> None:
    """It has the client's trace and span above it, and says what was encoded, in which stages, and what came of it."""
    client = serve()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine-1"}
    client.post("/encode", json={"sequences": PAIR}, headers=headers)
    (span,) = read_spans(client, exporter)["POST /encode"]
    assert span.kind == SpanKind.SERVER
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    found: dict[str, Any] = dict(span.attributes or {})
    stages = {name: found.pop(f"lengthwise.{name}") for name in ("decode", "queue", "run", "encode")}
    assert found == {
        "http.request.method": "POST",
        "http.route": "/encode",
        "http.response.status_code": 200,
        "lengthwise.request_id": "mine-1",
        "lengthwise.model": "made",
        "lengthwise.sequences": 2,
        "lengthwise.steps": 4,
    }
    assert span.end_time is not None
    assert span.start_time is not None
    assert 0 < sum(stages.values()) <= (span.end_time - span.start_time) / 1e9 + 1e-3  # two clocks


def test_a_batch_is_linked_to_its_requests(serve: Serve, exporter: InMemorySpanExporter) -> None:
    """Its span is in the trace of the first, linked to each once, and says how it was cut; it lies within theirs."""
    client = serve(runners=1)
    client.post("/encode", json={"sequences": PAIR})
    spans = read_spans(client, exporter)
    (request,), batches = spans["POST /encode"], spans["batch"]
    assert request.context is not None
    for batch in batches:
        assert [link.context for link in batch.links] == [request.context]
        assert batch.parent == request.context
        assert batch.attributes is not None
        assert batch.attributes["lengthwise.cut"] in ("all", "cost")
        assert batch.attributes["lengthwise.failed"] == 0
        assert request.start_time <= batch.start_time < batch.end_time  # type: ignore[operator]
    assert sum(batch.attributes["lengthwise.sequences"] for batch in batches) == 2  # type: ignore[index,misc]
    assert sum(batch.attributes["lengthwise.steps"] for batch in batches) == 4  # type: ignore[index,misc]


def test_the_lines_of_a_stream_are_part_of_its_trace(serve: Serve, exporter: InMemorySpanExporter) -> None:
    """Their batches are linked to its span."""
    client = serve()
    lines = "\n".join(str(steps.tolist()) for steps in draw_sequences([3, 4]))
    client.post("/encode", content=lines, headers={"Content-Type": "application/x-ndjson"})
    spans = read_spans(client, exporter)
    (stream,) = spans["POST /encode"]
    assert {link.context.span_id for batch in spans["batch"] for link in batch.links} == {stream.context.span_id}


def test_a_call_of_grpc_is_a_span_of_the_trace_it_came_with(artifact: Path, exporter: InMemorySpanExporter) -> None:
    """Its route is the call's, and its request's id the one of the metadata."""
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "mine-1"))
    app = make(artifact)
    with call(app) as address:
        ask(address, typed().SerializeToString(), metadata=metadata)
        app.state.service.telemetry.settle()
        (span,) = (one for one in exporter.get_finished_spans() if one.name.endswith("/ModelInfer"))
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    found = span.attributes or {}
    assert found["http.route"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (found["lengthwise.request_id"], found["lengthwise.sequences"]) == ("mine-1", 2)


def test_failures_are_errors_and_refusals_are_not(serve: Serve, exporter: InMemorySpanExporter) -> None:
    """A span says which problem was answered, and is an error if the service is at fault."""
    client = serve()
    client.post("/encode", json={"sequences": []})
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    client.post("/encode", json={"sequences": PAIR})
    refused, failed = read_spans(client, exporter)["POST /encode"]
    assert (refused.attributes or {})["error.type"] == "empty-request"
    assert refused.status.status_code == StatusCode.UNSET
    assert (failed.attributes or {})["error.type"] == "draining"
    assert failed.status.status_code == StatusCode.ERROR


def test_probes_are_not_traced(serve: Serve, exporter: InMemorySpanExporter) -> None:
    """Nor are scrapes; unknown paths have one name together."""
    client = serve()
    for path in ("/health/live", "/health/ready", "/metrics", "/nowhere/1"):
        client.get(path)
    assert set(read_spans(client, exporter)) == {"GET other"}


def test_what_is_not_sampled_makes_no_span(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the request nor of its batch."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "open_tracing", lambda: Tracing(provider))
    client = serve()
    assert client.post("/encode", json={"sequences": PAIR}).status_code == 200
    assert read_spans(client, exporter) == {}


def test_log_lines_name_the_trace(
    serve: Serve, exporter: InMemorySpanExporter, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that one finds the other."""
    client = serve(log_format="json")
    client.get("/v1/models", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    read_spans(client, exporter)
    assert f'"trace_id":"{TRACE}"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_made_where_the_standard_variables_ask_for_them(
    variables: dict[str, str], wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint is named, and nothing switches them off."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_are_wanted() == wanted


def test_the_resource_is_named_by_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_SERVICE_NAME`, and by default `lengthwise`."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name in ("lengthwise", "mine"):
        opened = tracing.open_tracing()
        assert opened._provider.resource.attributes["service.name"] == name
        opened.close()
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")


WITHOUT = """
import os, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from starlette.testclient import TestClient
from service.app import create_app
from service.settings import Settings

for endpoint in ("", "http://127.0.0.1:9"):
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    with TestClient(create_app(Settings(log_requests=False))) as client:
        assert client.get("/health/live").status_code == 200
        assert "service.observing.tracing" not in sys.modules
    print("live")
"""


def test_without_the_extra_nothing_is_traced_and_nothing_fails() -> None:
    """It is said once, if traces were asked for; if they were not, nothing is imported."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert ran.stdout == "live\nlive\n", ran.stderr
    assert ran.stderr.count("pip install '.[otel]'") == 1
