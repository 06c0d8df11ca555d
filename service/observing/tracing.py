"""Traces for OpenTelemetry: a span for each request, and one for each batch, linked to the requests in it.

It is imported only if OpenTelemetry's own variables say where traces go.
"""

import time
from collections.abc import Mapping, Sequence

from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, set_span_in_context

from service import __version__
from service.batching.batches import Target
from service.batching.jobs import HangUpStage, Run
from service.observing.counts import Exchange

NANOSECONDS = 10**9


class Tracing:
    """Makes the spans of requests and batches."""

    def __init__(self, provider: TracerProvider) -> None:
        """Trace with one provider."""
        self._provider = provider
        self._tracer = provider.get_tracer("lengthwise", __version__)

    def begin(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        """Begin the span of a request, in the trace that its headers name, if they name one."""
        if exchange.is_probe:
            return
        span = self._tracer.start_span(
            f"{exchange.method} {exchange.route}",
            propagate.extract(headers),
            SpanKind.SERVER,
            {
                "http.request.method": exchange.method,
                "http.route": exchange.route,
                "lengthwise.request_id": exchange.request_id,
            },
        )
        context = span.get_span_context()
        exchange.trace_id = f"{context.trace_id:032x}"
        if span.is_recording():
            exchange.span, exchange.origin = span, context

    def end(self, exchanges: Sequence[Exchange]) -> None:
        """End the spans of requests, and note in each what became of its request."""
        for exchange in exchanges:
            span = exchange.span
            if not isinstance(span, Span):
                continue
            span.set_attribute("http.response.status_code", exchange.status)
            if exchange.model:
                span.set_attribute("lengthwise.model", exchange.model)
            if exchange.problem:
                span.set_attribute("error.type", exchange.problem)
            if exchange.status >= 500:
                span.set_status(StatusCode.ERROR)
            if stages := exchange.stages:
                span.set_attributes({f"lengthwise.{name}": value for name, value in stages._asdict().items()})
            span.end(int(exchange.ended * NANOSECONDS))

    def see_batch(self, model: Target, run: Run, seconds: float, failed: int, nonfinite: int) -> None:  # noqa: ARG002 - those failed, too
        """Make the span of a batch that ended, if requests in it are traced; it belongs to the first one's trace."""
        origins = [entry.job.origin for entry in run.entries]
        contexts = list({one.span_id: one for one in origins if isinstance(one, SpanContext)}.values())
        if not contexts:
            return
        end = time.time_ns()
        span = self._tracer.start_span(
            "batch",
            set_span_in_context(NonRecordingSpan(contexts[0])),
            attributes={
                "lengthwise.model": model.name,
                "lengthwise.sequences": len(run.entries),
                "lengthwise.steps": sum(entry.steps for entry in run.entries),
                "lengthwise.padded_steps": len(run.entries) * run.steps,
                "lengthwise.cut": run.why,
                "lengthwise.predicted_seconds": run.expected_seconds,
                "lengthwise.failed": failed,
            },
            links=[Link(context) for context in contexts],
            start_time=end - int(seconds * NANOSECONDS),
        )
        span.end(end)

    def see_cancelled(self, model: str, where: HangUpStage) -> None:
        """Do nothing: the request's own span ends with the request."""

    def close(self) -> None:
        """Send the spans that were not sent yet."""
        self._provider.shutdown()


def open_tracing() -> Tracing:
    """Return a tracing that sends spans where OpenTelemetry's variables say."""
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "lengthwise"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
