"""What monitors and admins ask: the metrics, and the last batches."""

import asyncio
import hmac
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import onnxruntime
import orjson
from prometheus_client import Metric
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import problems
from service.api.routing import Route, Service, service_of
from service.api.worker import Worker
from service.batching.jobs import CutReason, Forecast
from service.catalogue.models import ServedModel
from service.observing import prometheus
from service.observing.counts import EndedBatch

ASK_SECONDS = 1.0  # for the metrics of another process


class Told(NamedTuple):
    """What another process counted: its metrics, and its statistics of each version of a model."""

    metrics: list[Metric]
    statistics: list[dict[str, Any]]


class BatchRecord(BaseModel):
    """A batch that ended; nothing of what was in its sequences or came of them."""

    model: str
    ended: datetime
    lengths: list[int] = Field(description="Of its sequences, shortest first, an empty one counting as 1.")
    padded_steps: int = Field(description="Steps computed for it, padding included.")
    cut: CutReason = Field(
        description="Why it was no larger: `shared` out among idle runners, `all` that waited was in it, it had as "
        "many `rows` or padded steps (`budget`) as a batch may have, or by its `cost` the next sequence was better off "
        "in another batch."
    )
    predicted_seconds: float
    seconds: float = Field(description="What it took, on its runner.")
    failed: int = Field(description="Sequences the model gave no embedding for.")


class LastBatches(BaseModel):
    """The last batches, newest first."""

    batches: list[BatchRecord]


async def expose(request: Request) -> Response:
    """Write down every metric as it stands."""
    service = service_of(request)
    families = _take_snapshot(service, is_asked=True)
    if worker := service.worker:
        others = await ask_others(service)
        families = prometheus.join(
            {worker.number: families, **{number: told.metrics for number, told in others.items()}}
        )
    body, media_type = prometheus.write(families, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": media_type})


async def tell_others(service: Service, worker: Worker) -> None:
    """Tell other processes the metrics of this one whenever they ask, until this is cancelled."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    if hmac.compare_digest(await reader.readexactly(len(worker.secret)), worker.secret):
                        writer.write(_write_told(service))
        finally:
            writer.close()

    async with await asyncio.start_unix_server(tell, sock=worker.listen()) as listening:
        await listening.serve_forever()


async def ask_others(service: Service) -> dict[int, Told]:
    """Ask the other processes, if there are any, what they counted; return it by their numbers."""
    service.telemetry.settle()
    if (worker := service.worker) is None:
        return {}
    others = [number for number in range(worker.processes) if number != worker.number]
    return dict(zip(others, await asyncio.gather(*(_ask(worker, number) for number in others)), strict=True))


async def _ask(worker: Worker, number: int) -> Told:
    """Ask another process what it counted; one that does not answer in time has counted nothing."""
    with suppress(OSError, TimeoutError, orjson.JSONDecodeError):
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_unix_connection(sock=worker.call(number))
            try:
                writer.write(worker.secret)
                packed = await reader.read()
            finally:
                writer.close()
            families, statistics = orjson.loads(packed)
            return Told(prometheus.unpack(families), statistics)
    return Told([], [])


def _write_told(service: Service) -> bytes:
    """Write what this process counted, for another one."""
    families = prometheus.pack(_take_snapshot(service, is_asked=False))
    counted = service.telemetry.statistics
    return orjson.dumps((families, [one.write(name, version) for (name, version), one in counted.items()]))


def _take_snapshot(service: Service, *, is_asked: bool) -> list[Metric]:
    """Take every metric of this process as it stands."""
    service.telemetry.settle()
    now = time.perf_counter()
    queues = service.engine.queues
    newest_last = reversed([*service.models])
    gauges = {model.name: _look(model, queues.forecast(model.queue, now)) for model in newest_last}
    progress = service.engine.seconds_since_progress(now)
    holdings = prometheus.Holdings(len(service.crowd), service.unread.held)
    snapshot = prometheus.Snapshot(service.telemetry, gauges.items(), holdings, progress, is_asked=is_asked)
    return prometheus.collect(snapshot)


async def list_batches(request: Request) -> Response:
    """Tell of the last batches how they were cut, and what they should have taken and took."""
    service = service_of(request)
    service.telemetry.settle()
    described = [_describe_batch(batch) for batch in reversed(service.telemetry.batches)]
    return Response(orjson.dumps({"batches": described}), media_type="application/json")


def _look(model: ServedModel, forecast: Forecast) -> prometheus.Gauges:
    build = {
        "version": __version__,
        "model_sha256": model.session.sha256,
        "provider": model.session.provider,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    return prometheus.Gauges(
        queue_sequences=forecast.sequences,
        queue_steps=forecast.steps,
        queue_drain_seconds=forecast.seconds,
        cost_error_ratio=model.calibrator.costs.error,
        build=build,
    )


def _describe_batch(batch: EndedBatch) -> dict[str, Any]:
    return BatchRecord(
        model=batch.model,
        ended=datetime.fromtimestamp(batch.ended, UTC),
        lengths=batch.lengths,
        padded_steps=len(batch.lengths) * batch.steps,
        cut=batch.why,
        predicted_seconds=round(batch.expected_seconds, 6),
        seconds=round(batch.seconds, 6),
        failed=batch.failed,
    ).model_dump(mode="json")


ROUTES = [
    Route(
        "GET",
        "/metrics",
        expose,
        is_probe=True,
        operation_id="metrics",
        summary="Figures for Prometheus",
        responses={200: {"description": "In its text format, or in OpenMetrics.", "content": {"text/plain": {}}}},
    ),
    Route(
        "GET",
        "/debug/batches",
        list_batches,
        access="admin",
        operation_id="debug_batches",
        summary="The last hundred batches, for admins",
        responses={
            200: {"model": LastBatches},
            404: problems.document_status("No admin key is set."),
        },
    ),
]
