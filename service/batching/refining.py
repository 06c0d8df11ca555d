"""Measures in idle time what the calibration left out."""

import asyncio
from typing import Protocol

from service.batching.engine import Engine
from service.costs.model import CostModel, Shape

IDLE_SECONDS = 1.0  # without a request, before a measurement


class Refinement(Protocol):
    """What would make predictions better; `Calibrator` is one."""

    def choose_shape(self) -> Shape | None:
        """Return a shape worth measuring; None if there is none any more."""

    def measure(self, shape: Shape) -> float:
        """Return the seconds a run over it takes."""

    def save(self) -> None:
        """Keep what was learnt."""


async def refine(engine: Engine, refinement: Refinement, costs: CostModel) -> None:
    """Measure what is worth measuring until nothing is left, and keep it.

    A request that comes meanwhile shares the CPUs with one measurement, which is then not used.

    Args:
        engine: what is idle, or not.
        refinement: what is measured.
        costs: what learns of it.
    """
    while shape := refinement.choose_shape():
        taken = engine.requests
        await asyncio.sleep(IDLE_SECONDS)
        if not engine.is_idle or engine.requests != taken:
            continue
        seconds = await asyncio.to_thread(refinement.measure, shape)
        if engine.requests == taken:
            costs.learn(shape, seconds)
    await asyncio.to_thread(refinement.save)
