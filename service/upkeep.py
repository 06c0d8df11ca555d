"""The tasks beside requests: artifacts watched, idle time used to measure, memory given back."""

import asyncio
import logging
import signal
import threading
import time
from importlib import import_module
from pathlib import Path

from service.api.routing import Service
from service.batching.refining import IDLE_SECONDS, refine
from service.costs.memory import trim_heap

logger = logging.getLogger("lengthwise")

WATCH_AGAIN_SECONDS = 5.0  # before a folder that was lost is looked for again
REFINE_SECONDS = 10.0  # between two looks for models that have something left to measure


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
    """Set an event whenever a folder changes; where it is lost, look for it again."""
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
    """End this process where its requests wait in vain: it is one of several, and another takes its place."""
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
            for model in [*service.models]:
                await asyncio.to_thread(model.session.release_memory)
            await asyncio.to_thread(trim_heap)


async def refine_idly(service: Service) -> None:
    """Measure in idle time what is left to measure of each model, whenever there is one more."""
    while True:
        for model in service.models:
            await refine(service.engine, model.calibrator, model.calibrator.costs)
        await asyncio.sleep(REFINE_SECONDS)
