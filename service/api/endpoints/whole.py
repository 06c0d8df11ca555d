"""The service as a whole: what each worker answers the others, so that any of them can speak for all."""

from collections.abc import Mapping
from typing import Any

from service.api import fellows
from service.api.endpoints import monitoring, operations, repository, showing
from service.api.fellows import Answer
from service.api.routing import Service
from service.api.worker import Worker


async def tell_costs(service: Service, _given: Any) -> dict[str, list[tuple[int, int, float]]]:
    """Tell what was measured of each model."""
    return {model.full_name: model.calibrator.calibration.runs for model in service.models}


async def take_costs(service: Service, worker: Worker) -> None:
    """Learn what the first worker has measured meanwhile."""
    told = await fellows.ask(worker, 0, "costs")
    if not isinstance(told, dict):
        return
    for model in service.models:
        costs = model.calibrator.costs
        known = costs.measured
        for rows, steps, seconds in told.get(model.full_name, ()):
            if (rows, steps) not in known:
                costs.learn((rows, steps), seconds)


ANSWERS: Mapping[str, Answer] = {
    "counts": monitoring.tell_counts,
    "batches": monitoring.tell_batches,
    "live": showing.tell_live,
    "state": operations.tell_state,
    "states": repository.tell_states,
    "load": repository.follow_load,
    "unload": repository.follow_unload,
    "costs": tell_costs,
    "scan": repository.follow_scan,
}


async def tell_others(service: Service, worker: Worker) -> None:
    """Answer the other workers, until this is cancelled."""
    await fellows.answer_others(service, worker, ANSWERS)
