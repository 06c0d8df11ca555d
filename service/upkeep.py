"""What goes on beside requests, from the start of the event loop to its end.

Artifacts are watched, idle time is used to measure, memory is given back.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from service.api.endpoints import whole
from service.api.routing import Service
from service.batching.engine import Engine, Observer
from service.batching.refining import IDLE_SECONDS, refine
from service.catalogue.loading import Loader
from service.catalogue.models import ServedModel
from service.costs.memory import trim_heap

logger = logging.getLogger("lengthwise")

WATCH_AGAIN_SECONDS = 5.0  # before a folder that was lost is looked for again
REFINE_SECONDS = 10.0  # between two looks for models that have something left to measure


@asynccontextmanager
async def attend(service: Service, loader: Loader) -> AsyncIterator[None]:
    """Start what encodes and the tasks beside it, and end them with the service."""
    async with _trace(service) as observers:
        queues, most = loader.queues, service.settings.max_run_seconds
        service.engine = Engine(queues, observers, max_run_seconds=most)
        service.tokenizer = ThreadPoolExecutor(1, "tokenizer")
        tasks = [refine_idly(service), release_memory(service), watch(service), service.telemetry.time_loop()]
        if service.worker:
            tasks += [leave_when_stuck(service), whole.tell_others(service, service.worker)]
        aside = [asyncio.create_task(task) for task in tasks]
        yield
        for task in aside:
            task.cancel()
        await asyncio.to_thread(loader.close)
        await asyncio.to_thread(service.engine.close)
        service.tokenizer.shutdown(wait=False, cancel_futures=True)
        service.telemetry.settle()


@asynccontextmanager
async def _trace(service: Service) -> AsyncIterator[list[Observer]]:
    """Trace requests and batches if OpenTelemetry's variables ask for it.

    Yields:
        What is to be told of batches.
    """
    telemetry = service.telemetry
    if not traces_are_wanted():
        yield [telemetry]
        return
    try:
        tracing = import_module("service.observing.tracing").open_tracing()
    except ImportError:
        logger.warning(
            "Nothing is traced, though a variable asks for it: install the extra otel, pip install '.[otel]'"
        )
        yield [telemetry]
        return
    service.tracing = tracing
    telemetry.witnesses.append(tracing.end)
    yield [telemetry, tracing]
    telemetry.witnesses.remove(tracing.end)
    service.tracing = None
    await asyncio.to_thread(tracing.close)


def traces_are_wanted() -> bool:
    """Whether OpenTelemetry's own variables name a place for traces."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return bool(endpoint) and not is_off and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"


async def watch(service: Service) -> None:
    """Look for artifacts that came, changed or went, whenever the folder says so, or SIGHUP."""
    wanted = asyncio.Event()
    if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():  # as signals demand
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, wanted.set)
    watching = asyncio.create_task(_tell_changes(service.settings.models, wanted)) if service.settings.models else None
    try:
        while await wanted.wait():
            wanted.clear()
            try:
                await service.repository.scan()
            except Exception:  # nobody foresaw it, and the next change is looked at all the same
                logger.exception("The artifacts could not be looked at")
    finally:
        if watching:
            watching.cancel()


async def _tell_changes(folder: Path, changed: asyncio.Event) -> None:
    """Set an event whenever a folder changes; if it is lost, look for it again."""
    watchfiles = import_module("watchfiles")
    while True:
        try:
            changed.set()  # whatever happened while nobody watched
            async for _ in watchfiles.awatch(folder, recursive=False):
                changed.set()
        except (OSError, RuntimeError) as error:
            logger.error("%s cannot be watched: %s", folder, error)  # noqa: TRY400 - no fault of ours
        await asyncio.sleep(WATCH_AGAIN_SECONDS)


async def leave_when_stuck(service: Service) -> None:
    """End this process if its requests wait in vain: it is one of several, and another takes its place."""
    while True:
        await asyncio.sleep(IDLE_SECONDS)
        if service.engine.is_stuck(time.perf_counter()):
            logger.error("Nothing moves any more, and this process ends")
            signal.raise_signal(signal.SIGTERM)
            return


async def release_memory(service: Service) -> None:
    """Give memory back once requests have ended for a while."""
    released = 0
    while True:
        taken = service.engine.requests
        await asyncio.sleep(IDLE_SECONDS)
        if taken == service.engine.requests != released and not service.engine.queues.running:
            released = taken
            await _release_all(service)
            await asyncio.to_thread(trim_heap)


async def _release_all(service: Service) -> None:
    """Give back what the sessions of all models took; between two times, no variable holds a model."""
    for model in [*service.models]:
        await asyncio.to_thread(model.session.release_memory)


async def refine_idly(service: Service) -> None:
    """Measure in idle time what is left to measure of each model; of several workers the first one does, for all."""
    while True:
        if service.worker and service.worker.number:
            await whole.take_costs(service, service.worker)
        else:
            await _refine_all(service)
        await asyncio.sleep(REFINE_SECONDS)


async def _refine_all(service: Service) -> None:
    """Refine one model after the other; one that is gone is not held, not even by a list of those that were there."""
    while model := next((one for one in service.models if one.calibrator.choose_shape()), None):
        is_served = partial(_is_served, service, model)
        await refine(service.engine, model.calibrator, model.calibrator.costs, is_served)


def _is_served(service: Service, model: ServedModel) -> bool:
    return model in service.models
