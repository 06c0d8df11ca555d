"""What monitors and admins ask: the metrics, and the last batches."""

import platform
import time
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

import onnxruntime
import orjson
from prometheus_client import Metric
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import fellows, problems
from service.api.routing import Route, Service, service_of
from service.api.worker import Worker
from service.batching.jobs import CutReason, Forecast
from service.catalogue.models import ServedModel
from service.observing import prometheus
from service.observing.counts import KEPT_BATCHES, EndedBatch


class Told(NamedTuple):
    """What another worker counted: its metrics, and its statistics of each version of a model."""

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
    """Write down every metric as it stands, of all workers together; with `?by=process` each has its own samples."""
    service = service_of(request)
    own, others = _take_snapshot(service, is_asked=True), await ask_counts(service)
    number = service.worker.number if service.worker else 0
    told = [(number, own), *((number, one.metrics) for number, one in others)]
    is_apart = request.query_params.get("by") == "process"
    families = prometheus.set_apart(told) if is_apart else prometheus.add_up([metrics for _, metrics in told])
    body, media_type = prometheus.write(families, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": media_type})


async def ask_counts(service: Service) -> list[tuple[int, Told]]:
    """Ask what other workers counted, those that ended and left it to this one among them.

    Returns:
        Their numbers, and what they told. Of one that does not answer in time that is what it told before.
    """
    service.telemetry.settle()
    if (worker := service.worker) is None:
        return []
    _keep(service, worker)
    answers = await fellows.ask_others(worker, "counts")
    told = [(number, answers.get(number) or worker.shared.recall(number)) for number in worker.others]
    return [(number, _read_told(one)) for number, one in [(worker.number, worker.inherited), *told] if one]


async def tell_counts(service: Service, _given: Any) -> Any:
    """Tell what this worker counted."""
    return _keep(service, service.worker) if service.worker else None


def _keep(service: Service, worker: Worker) -> Any:
    """Keep what this worker counted for the one that may take its place, so that no counter ever falls."""
    families = _take_snapshot(service, is_asked=False)
    counted = service.telemetry.statistics
    statistics = [one.write(name, version) for (name, version), one in counted.items()]
    if worker.inherited:
        before = _read_told(worker.inherited)
        families = prometheus.add_up([families, before.metrics])
        statistics += before.statistics
    told = [prometheus.pack(families), statistics]
    worker.keep(orjson.dumps([prometheus.pack(prometheus.leave_counters(families)), statistics]))
    return told


def _read_told(told: Any) -> Told:
    """Read what a worker told, or kept."""
    families, statistics = orjson.loads(told) if isinstance(told, bytes) else told
    return Told(prometheus.unpack(families), statistics)


def _take_snapshot(service: Service, *, is_asked: bool) -> list[Metric]:
    """Take every metric of this process as it stands."""
    service.telemetry.settle()
    now = time.perf_counter()
    queues = service.engine.queues
    newest_last = reversed([*service.models])
    gauges = {model.name: _look(model, queues.forecast(model.queue, now)) for model in newest_last}
    progress = service.engine.seconds_since_progress(now)
    unread = service.unread.held + service.unread_calls.held
    holdings = prometheus.Holdings(len(service.crowd), unread, service.engine.count_runners())
    snapshot = prometheus.Snapshot(service.telemetry, gauges.items(), holdings, progress, is_asked=is_asked)
    return prometheus.collect(snapshot)


async def list_batches(request: Request) -> Response:
    """Tell of the last batches how they were cut, and what they should have taken and took."""
    service = service_of(request)
    described = await tell_batches(service)
    for others in (await fellows.ask_others(service.worker, "batches")).values():
        described += others or []
    described.sort(key=itemgetter("ended"), reverse=True)
    return Response(orjson.dumps({"batches": described[:KEPT_BATCHES]}), media_type="application/json")


async def tell_batches(service: Service, _given: Any = None) -> list[dict[str, Any]]:
    """Tell of this worker's last batches, newest first."""
    service.telemetry.settle()
    return [describe_batch(batch) for batch in reversed(service.telemetry.batches)]


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


def describe_batch(batch: EndedBatch) -> dict[str, Any]:
    """Describe a batch for whoever may see the lengths of others' sequences."""
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
