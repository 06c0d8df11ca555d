"""What the page at `/` shows beside what any client may ask: examples, measured costs, and what goes on right now.

These answers are the page's own: they are not in the OpenAPI document, and change as the page does.
"""

import asyncio
import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeAlias, cast

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api import examples, fellows
from service.api.endpoints.monitoring import describe_batch
from service.api.routing import Route, Service, service_of
from service.api.unread import READER, Reader
from service.catalogue.models import ServedModel
from service.errors import InvalidKey
from service.observing.counts import Counts, EndedBatch

LOOK_SECONDS = 0.2  # between two looks of a stream at whether the service drains
LOOKS = 5  # between two events
MAX_WATCHERS = 16  # streams at a time in a process
STALL_SECONDS = 20.0  # that an event may take to go out; a client that does not read would keep others from watching

Seen: TypeAlias = dict[str, float]  # by a worker's number, when the newest of its batches ended, in seconds since 1970


async def tell_access(request: Request) -> Response:
    """Say which keys are asked for, so that the page can ask its reader before it is refused."""
    service = service_of(request)
    return _json({"key": service.keys is not None, "admin": service.admin_keys is not None})


async def give_examples(request: Request) -> Response:
    """Give sequences that a model reads, made of its golden vectors, or texts if it reads those."""
    service, model = service_of(request), _find(request)
    return _json(examples.show_page(model, service.settings.limits))


async def tell_costs(request: Request) -> Response:
    """Tell what was measured of a model on this machine: arrangements, and seconds by rows and steps."""
    model = _find(request)
    calibrator, costs = model.calibrator, model.calibrator.costs
    return _json(
        {
            "model": model.full_name,
            "cpus": calibrator.cpus,
            "cached": calibrator.is_cached,
            "arrangements": [one.model_dump() for one in calibrator.arrangements],
            "measured": [(rows, steps, seconds) for (rows, steps), seconds in sorted(costs.measured.items())],
            "runs": costs.runs,
            "error": costs.error,
            "correction": costs.factors[False],
            "loaded_correction": costs.factors[True],
        }
    )


async def watch(request: Request) -> Response:
    """Stream what goes on, an event a second."""
    service = service_of(request)
    if request.method == "HEAD":
        return Response(media_type=LiveStream.media_type)  # of a stream without events, nobody would see the end
    if service.watchers >= MAX_WATCHERS:
        raise HTTPException(503, f"{MAX_WATCHERS} pages watch this process already: close one of them.")
    return LiveStream(service, sees_batches=_sees_batches(request))


def _sees_batches(request: Request) -> bool:
    """Whether a request may see the lengths of others' sequences: the admin, or anyone if there are no keys at all."""
    service = service_of(request)
    if service.admin_keys is None:
        return service.keys is None
    try:
        return bool(service.admin_keys.recognize(request.scope["headers"]))
    except InvalidKey:
        return False


class LiveStream(Response):
    """Tells what goes on by server-sent events until the client hangs up or stops reading, or the service drains."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, *, sees_batches: bool) -> None:
        """Tell nothing yet.

        Args:
            service: the service.
            sees_batches: whether the client may see the lengths of others' sequences.
        """
        # A proxy that gathers events would hold them back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._sees_batches = sees_batches

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send events; a client that hangs up, or is cut off, cancels this."""
        service, reader = self._service, cast("Reader | None", scope.get(READER))
        service.watchers += 1
        try:
            if reader:
                reader.keep_close()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            seen: Seen | None = {} if self._sees_batches else None
            while not service.is_draining:
                others = await fellows.ask_others(service.worker, "live", seen)
                told = [await tell_live(service, seen), *filter(None, others.values())]
                if seen is not None:
                    seen |= {one["number"]: one["batches"][-1]["at"] for one in told if one["batches"]}
                await self._send(send, b"data: %b\n\n" % orjson.dumps(join_live(told)))
                await self._pause(reader)
            await self._send(send, b"event: end\ndata: {}\n\n", is_last=True)
        finally:
            service.watchers -= 1

    async def _pause(self, reader: Reader | None) -> None:
        """Wait until the next event is due and the last one went out; if that takes too long, cut off its reader."""
        sent, looks = time.monotonic(), 0
        while not self._service.is_draining and (looks < LOOKS or (reader and reader.is_behind)):
            if reader and reader.is_behind and time.monotonic() - sent > STALL_SECONDS:
                self._service.telemetry.see_closed("unread")
                reader.cut_off()
            await asyncio.sleep(LOOK_SECONDS)
            looks += 1

    async def _send(self, send: Send, event: bytes, *, is_last: bool = False) -> None:
        await send({"type": "http.response.body", "body": event, "more_body": not is_last})


async def tell_live(service: Service, seen: Seen | None) -> dict[str, Any]:
    """Tell what waits, runs and was counted in this process, and the batches that ended, oldest first.

    Args:
        service: the service.
        seen: when the newest batch ended that the client knows, by the worker that ran it; None if it may see none.
    """
    telemetry, queues = service.telemetry, service.engine.queues
    telemetry.settle()
    now = time.perf_counter()
    models: dict[str, Any] = {}
    for model in service.models:  # of a name, the newest version first; their counts are one
        forecast = queues.forecast(model.queue, now)
        told = models.setdefault(model.name, {**_count(telemetry.of(model.name)), "waiting": 0, "wait_seconds": 0.0})
        told["waiting"] += forecast.sequences
        told["wait_seconds"] = max(told["wait_seconds"], forecast.seconds)
    batches = None
    number = str(service.worker.number if service.worker else 0)
    if seen is not None:
        ended = [batch for batch in telemetry.batches if batch.ended > seen.get(number, 0.0)]
        batches = [{**describe_batch(batch), **_place(batch, number)} for batch in ended]
    return {
        "number": number,
        "time": time.time(),
        "runners": queues.runners,
        "running": queues.running,
        "inflight": telemetry.inflight,
        "models": models,
        "batches": batches,
    }


def join_live(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up what all workers tell, so that it speaks for the whole service; of waits, the longest counts."""
    whole = {"time": max(one["time"] for one in told), "models": {}, "batches": told[0]["batches"]}
    for figure in ("runners", "running", "inflight"):
        whole[figure] = sum(one[figure] for one in told)
    for name in dict.fromkeys(name for one in told for name in one["models"]):
        parts = [one["models"][name] for one in told if name in one["models"]]
        joined = {figure: sum(part[figure] for part in parts) for figure in parts[0] if figure != "stages"}
        joined["stages"] = {stage: sum(part["stages"][stage] for part in parts) for stage in parts[0]["stages"]}
        joined["wait_seconds"] = max(part["wait_seconds"] for part in parts)
        whole["models"][name] = joined
    if whole["batches"] is not None:
        batches = [batch for one in told for batch in one["batches"] or ()]
        whole["batches"] = sorted(batches, key=itemgetter("at"))
    return whole


def _count(counts: Counts) -> dict[str, Any]:
    """Return the counts of a model since the start, from which the page makes rates."""
    return {
        "requests": counts.request_seconds.count,
        "request_seconds": counts.request_seconds.sum,
        "refused": sum(counts.rejected.values()),
        "stages": {stage: seconds.sum for stage, seconds in counts.stage_seconds.items()},
        "batches": counts.batch_sequences.count,
        "sequences": counts.batch_sequences.sum,
        "valid_steps": counts.valid_steps,
        "padded_steps": counts.padded_steps,
        "run_seconds": counts.run_seconds,
    }


def _place(batch: EndedBatch, number: str) -> dict[str, Any]:
    """Tell when a batch ended, which queue its sequences waited in, and the places at which they came there."""
    return {"at": batch.ended, "queue": f"{number} {batch.model}@{batch.version}", "places": batch.places}


def _find(request: Request) -> ServedModel:
    """Return the model that the query names, or the default."""
    return service_of(request).models.find(request.query_params.get("model"))


def _json(content: object) -> Response:
    written = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(written, headers={"Cache-Control": "no-store"}, media_type="application/json")


ROUTES = [
    Route("GET", "/page/access", tell_access, access="open", tag="page"),
    Route("GET", "/page/examples", give_examples, tag="page"),
    Route("GET", "/page/costs", tell_costs, tag="page"),
    Route("GET", "/page/live", watch, tag="page"),
]
