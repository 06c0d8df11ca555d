"""A shard encoded on all CPUs: sorted by length, cut by the service's costs, each row back in its place."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.batching.cutting import cut_sorted
from service.costs.calibrate import load
from service.costs.memory import share_heap
from service.encoder.sequences import Embeddings, InputSpec, Output, State, Steps, pad_batch
from service.encoder.tokenizer import describe_input
from service.settings import Settings

SWITCH_SECONDS = 0.00005  # that a thread waits for one that has the interpreter; 5 ms, the default, is many runs long


def settle_threads() -> None:
    """Set what all threads of the process share, before there are any: the interpreter and the heap."""
    sys.setswitchinterval(SWITCH_SECONDS)
    share_heap()


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model gave for n sequences, in order.

    Attributes:
        embeddings: `(n, D)`.
        lengths: `(n,)`, of the sequences.
        steps: n arrays `(t, W)`; empty if they were not asked for.
        state: of `(n, layers, directions, H)`; empty if it was not asked for.
        padded_steps: steps computed, padding included.
        width: W; 0 if steps were not asked for.
    """

    embeddings: Embeddings
    lengths: npt.NDArray[np.int64]
    steps: list[npt.NDArray[np.float32]]
    state: State
    padded_steps: int
    width: int = 0


class Encodes(Protocol):
    """What encodes: an artifact here, or a service."""

    name: str
    file: str
    sha256: str
    outputs: tuple[Output, ...]
    dim: int
    spec: InputSpec
    columns: tuple[str, ...]

    def predict(self, lengths: npt.NDArray[np.int64]) -> float | None:
        """Return the seconds that encoding sequences of these lengths should take, None if nobody knows."""

    def begin(self, sequences: list[Steps], outputs: tuple[Output, ...] = ("embedding",)) -> Callable[[], Encoded]:
        """Begin to encode n sequences; what is returned waits for them all."""

    def close(self) -> None:
        """End what is under way."""


class Encoder:
    """An artifact, and the runners and costs that were measured for it here.

    Attributes:
        session: runs it.
        name: the model's name.
        file: the artifact that was read.
        sha256: of the artifact.
        outputs: what it gives.
        dim: D, the numbers in an embedding.
        spec: what it reads.
        columns: the names of the numbers in a step; empty if nobody knows.
        costs: what its runs take.
        runners: runs at the same time.
    """

    def __init__(self, settings: Settings) -> None:
        """Open and measure an artifact.

        Raises:
            StartupError: it cannot be opened.
        """
        calibrator = load(settings)
        self.session = calibrator.session
        manifest = self.session.manifest
        self.name = Path(self.session.file).stem if manifest is None else manifest.name
        self.file, self.sha256 = self.session.file, self.session.sha256
        self.outputs, self.dim = self.session.outputs, self.session.dim
        self.spec = describe_input(self.session)
        self.columns = () if manifest is None else tuple(manifest.input.columns)
        self.costs = calibrator.costs
        self.runners = calibrator.arrangements[0].runners
        self._at_once = min(self.runners, max(1, calibrator.cpus // calibrator.arrangements[0].threads))
        self._most_steps = settings.max_batch_steps
        self._is_closed = threading.Event()
        self._pool = ThreadPoolExecutor(self.runners, "runner")

    def close(self) -> None:
        """End the runners, and what they have not begun."""
        self._is_closed.set()
        self._pool.shutdown(cancel_futures=True)

    def cut(self, lengths: npt.NDArray[np.int64]) -> list[tuple[npt.NDArray[np.int64], float]]:
        """Cut sequences into batches.

        Args:
            lengths: `(n,)`.

        Returns:
            For each batch, the longest first, the places of its sequences and the seconds it should take.
        """
        order = np.argsort(lengths, kind="stable")
        ascending = np.maximum(1, lengths[order]).tolist()
        return [
            (order[start:stop], seconds) for start, stop, seconds in cut_sorted(ascending, self.costs, self._most_steps)
        ]

    def predict(self, lengths: npt.NDArray[np.int64]) -> float:
        """Return the seconds that encoding sequences of these lengths should take, with all CPUs at work."""
        return sum(seconds for _, seconds in self.cut(lengths)) / self._at_once  # runners beyond the CPUs only wait

    def begin(self, sequences: list[Steps], outputs: tuple[Output, ...] = ("embedding",)) -> Callable[[], Encoded]:
        """Begin to encode n sequences, once those of earlier calls are under way.

        On the CPU, no embedding of a float32 LSTM or GRU depends by a bit on how they are cut.

        Returns:
            What waits for them all, and returns them.
        """
        session = self.session
        count = len(sequences)
        embeddings = np.zeros((count, session.dim), np.float32)
        steps: list[npt.NDArray[np.float32]] = []
        state: State = {}
        width = (session.width or 0) if "steps" in outputs else 0
        if "steps" in outputs:
            steps = [np.empty((0, width), np.float32)] * count
        if "state" in outputs:
            state = {name: np.zeros((count, *(session.state_shape or ())), np.float32) for name in session.state_names}

        def run(places: npt.NDArray[np.int64]) -> int:
            batch = pad_batch([sequences[place] for place in places.tolist()])
            if len(outputs) == 1:
                embeddings[places] = session.run(batch)
            else:
                result = session.run_all(batch)
                embeddings[places] = result.embeddings
                if steps and result.steps is not None:
                    for place, row, length in zip(places, result.steps, batch.lengths, strict=True):
                        steps[place] = row[:length].copy()
                for name, part in state.items():
                    part[places] = result.state[name]
            return len(places) * int(batch.steps.shape[1])

        lengths = np.fromiter(map(len, sequences), np.int64, count)
        left = iter([places for places, _ in self.cut(lengths)])  # whichever runner is free takes the next

        def run_left() -> int:
            return sum(run(places) for places in left if not self._is_closed.is_set())

        running = [self._pool.submit(run_left) for _ in range(self.runners)]
        return lambda: Encoded(embeddings, lengths, steps, state, sum(one.result() for one in running), width)
