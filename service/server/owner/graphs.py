"""A graph that the owner loaded, and what runs of it cost on this device."""

import json
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from service.costs.model import CostModel, Shape
from service.encoder.region import OUTPUTS, Region, place_inputs
from service.encoder.runtime import Feed, LocalRuntime, Measured

# A GPU takes little longer for many rows than for one, so that few shapes tell all: rows far apart, and few lengths.
ROWS = (1, 32, 256, 1024, 4096)
STEPS = (8, 64, 256)
LONG_SECONDS = 0.05  # larger shapes than one that takes so long are left to what it says
REPEATS = 2  # after a run that is not timed
MOST_ROWS = 2**14  # in a run


class Graph:
    """A graph that runs here.

    Attributes:
        content: the artifact, which all that ask for it share.
        description: what it is, in JSON, for those that ask.
        runtime: runs it.
        costs: what a run takes.
        budget: padded steps that one run may have; halved if the device's memory turns out too small.
        outputs: what it gives, of what may be asked for.
        channels: how many ask for it.
    """

    def __init__(
        self, content: Region, runtime: LocalRuntime, measured: Measured, budget: int, device: threading.Lock
    ) -> None:
        """Measure a graph that was loaded.

        Args:
            content: the artifact.
            runtime: runs it.
            measured: what runs cost, if that is known.
            budget: padded steps that one run may have.
            device: is held while anything runs.
        """
        self.content = content
        self.runtime = runtime
        self.budget = budget
        self.channels = 0
        self.outputs = tuple(name for name in OUTPUTS if name in {node.name for node in runtime.outputs})
        self._trails: dict[str, tuple[int, ...]] = {}
        with device:
            self.run(self.outputs, self.make_feed(1, 2))
        measured = measured or self._measure(device)
        self.costs = CostModel(measured, MOST_ROWS)
        told = {
            "provider": runtime.provider,
            "inputs": runtime.inputs,
            "outputs": runtime.outputs,
            "metadata": runtime.metadata,
            "measured": [[*shape, seconds] for shape, seconds in measured.items()],
        }
        self.description = Region.holding(json.dumps(told).encode())

    def run(self, outputs: tuple[str, ...], feed: Feed) -> list[npt.NDArray[np.float32]]:
        """Run a batch, and note what shape a row of each output has."""
        found = self.runtime.run(outputs, feed)
        for name, array in zip(outputs, found, strict=True):
            self._trails[name] = array.shape[2 if name == "steps" else 1 :]
        return found

    def shapes(self, outputs: tuple[str, ...], rows: int, steps: int) -> list[tuple[int, ...]]:
        """Return the shapes of what a run over so many rows and steps gives."""
        return [(rows, *((steps,) if name == "steps" else ()), *self._trails[name]) for name in outputs]

    def predict(self, rows: int, steps: int) -> float:
        """Return the seconds of a run over so many rows of so many steps."""
        return self.costs.predict(rows, steps)

    def make_feed(self, rows: int, steps: int) -> Feed:
        """Make a full batch: standard normal features, or the token id that every vocabulary has."""
        feed: Feed = {}
        draw = np.random.default_rng(0)
        for name, _, shape, kind in place_inputs(self.runtime.inputs, rows, steps, dated=False)[0]:
            array: npt.NDArray[Any] = np.zeros(shape, kind)
            if name == "lengths":
                array[:] = steps
            elif name == "sequences" and kind is np.float32:
                array = draw.standard_normal(shape, np.float32)
            feed[name] = array
        return feed

    def _measure(self, device: threading.Lock) -> dict[Shape, float]:
        """Measure what runs cost, one at a time."""
        measured: dict[Shape, float] = {}
        for steps in STEPS:
            for rows in ROWS:
                if rows > 1 and rows * steps > self.budget:
                    break
                feed = self.make_feed(rows, steps)
                with device:
                    self.runtime.run(["embedding"], feed)
                    seconds = min(self._time(feed) for _ in range(REPEATS))
                measured[rows, steps] = seconds
                if seconds > LONG_SECONDS:
                    break
        return measured

    def _time(self, feed: Feed) -> float:
        began = time.perf_counter()
        self.runtime.run(["embedding"], feed)
        return time.perf_counter() - began
