"""Measures in idle time what the calibration left out."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from service.batching.engine import Engine
from service.costs.model import CostModel, Shape

IDLE_SECONDS = 1.0  # without a request, before a measurement begins


class Refinement(Protocol):
    """Measurements that would make predictions better; `Calibrator` has them."""

    def choose_shape(self) -> Shape | None:
        """Return a shape worth measuring; None if none is left."""

    def measure(self, shape: Shape) -> float:
        """Return the seconds that a run over a shape takes."""

    def save(self) -> None:
        """Write down what was learnt."""


async def refine(engine: Engine, refinement: Refinement, costs: CostModel, is_wanted: Callable[[], bool]) -> None:
    """Measure what is worth measuring until nothing is left or its model is gone, and save it.

    A request that comes during a measurement shares the CPUs with it; such a measurement is not used.

    Args:
        engine: the engine whose idle time is used.
        refinement: the shapes to measure.
        costs: the model that learns the results.
        is_wanted: returns whether the encoder that is measured is still served.
    """
    while is_wanted() and (shape := refinement.choose_shape()):
        taken = engine.requests
        await asyncio.sleep(IDLE_SECONDS)
        if not engine.is_idle or engine.requests != taken:
            continue
        seconds = await asyncio.to_thread(refinement.measure, shape)
        if engine.is_idle and engine.requests == taken:
            costs.learn(shape, seconds)
    await asyncio.to_thread(refinement.save)
