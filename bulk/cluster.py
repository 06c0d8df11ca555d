"""The shards of a plan handed to actors of Ray, which read and write them: no sequence or vector passes the driver.

An actor opens the encoder once. One that is lost with its node costs the shards it had in hand, which others do.
"""

import argparse
import os
import signal
import tempfile
import threading
from collections import Counter, deque
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported, or it would report

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
except ImportError:
    ray = None

from bulk.encoder import Encoder, settle_threads
from bulk.mistakes import BulkError, TooManyErrors
from bulk.plan import Plan
from bulk.planning import make_settings, make_wanted
from bulk.progress import Done, Meter
from bulk.run import Bounds, Stages, run
from bulk.sinks.files import open_sink
from bulk.stores import open_place
from bulk.stretches import Stretch, Stretches
from service.encoder.session import find_artifact
from service.settings import SHIPPED_MODEL

MOST_LOSSES = 5  # of the same shards: then it is not the nodes that fail
LOOK_SECONDS = 1.0  # between two looks for CPUs that came or went

ROOT = str(Path(__file__).parents[1])
VARIABLES = {"PYTHONPATH": ROOT, "ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


class Worker:
    """An actor: an encoder with as many runs at a time as it has CPUs."""

    def __init__(self, options: argparse.Namespace, plan: Plan, folder: str, name: str, artifact: bytes) -> None:
        settle_threads()
        self._plan = plan
        os.chdir(folder)  # the driver's, from which paths are given
        with tempfile.TemporaryDirectory() as made:
            file = Path(made) / name
            file.write_bytes(artifact)
            settings = make_settings(options, file, options.actor_cpus)
            encoder = Encoder(settings)
        wanted = make_wanted(options, encoder, settings, plan.options["types"])
        self._stages = Stages(wanted, encoder, open_sink(open_place(options.out), plan, encoder.dim, encoder.name))

    def encode(self, numbers: list[int]) -> Done:
        """Encode those of some shards that are not done.

        Raises:
            BulkError: an input cannot be read, or a row of it; of this class, since the others cannot travel.
        """
        left = [number for number in numbers if not self._stages.sink.is_done(number)]
        with Meter(0, quiet=True) as meter:
            try:
                run(self._plan, left, self._stages, meter, Bounds(None, threading.Event()))
            except BulkError as error:
                raise BulkError(str(error)) from None
        return meter.done


class Actors:
    """As many workers as the cluster has CPUs for, each with some shards in hand."""

    def __init__(self, options: argparse.Namespace, plan: Plan, numbers: list[int]) -> None:
        model = find_artifact(Path(options.model or SHIPPED_MODEL))
        self._cpus = options.actor_cpus
        self._given = [ray.put(one) for one in (options, plan, str(Path.cwd()), model.name, model.read_bytes())]
        settings = {"num_cpus": self._cpus, "scheduling_strategy": "SPREAD"}
        self._kind = ray.remote(Worker).options(**settings)
        self._stretches = Stretches(numbers)
        self._busy: dict[Any, tuple[Any, Stretch, list[int]]] = {}
        self._losses: Counter[int] = Counter()

    @property
    def busy(self) -> int:
        """How many have shards in hand."""
        return len(self._busy)

    @property
    def left(self) -> int:
        """How many shards no actor has taken yet."""
        return self._stretches.left

    def fill(self) -> None:
        """Start workers for the CPUs that have none."""
        most = max(1, int(ray.cluster_resources().get("CPU", 0)) // self._cpus)
        while self.left and self.busy < most:
            self._hand(self._kind.remote(*self._given), deque())

    def _hand(self, worker: Any, stretch: Stretch) -> None:
        stretch, numbers = self._stretches.take(stretch)
        self._busy[worker.encode.remote(numbers)] = worker, stretch, numbers

    def take(self, *, is_ending: bool) -> tuple[list[int], Done] | None:
        """Wait for a worker and hand it more; one that was lost gives back what it had in hand.

        Returns:
            The shards that it ended, and what was in them; None if none did for a while.

        Raises:
            BulkError: a worker says so, or workers were lost with the same shards again and again.
        """
        ended, _ = ray.wait([*self._busy], timeout=LOOK_SECONDS)
        if not ended:
            return None
        worker, stretch, numbers = self._busy.pop(ended[0])
        try:
            done: Done = ray.get(ended[0])
        except RayActorError as error:
            stretch.extendleft(reversed(numbers))
            self._stretches.leave(stretch)
            self._losses[numbers[0]] += 1
            if self._losses[numbers[0]] == MOST_LOSSES:
                raise BulkError(f"{MOST_LOSSES} actors were lost with the same shards; the last: {error}") from error
            return None
        except RayTaskError as error:
            raise BulkError(str(error.cause)) from error
        if self.left and not is_ending:
            self._hand(worker, stretch)
        else:
            self._stretches.leave(stretch)
        return numbers, done


def run_on_ray(options: argparse.Namespace, plan: Plan, numbers: list[int], meter: Meter, bounds: Bounds) -> int:
    """Encode shards that are not done on a cluster, which sees the files under the same names.

    Args:
        options: the command line.
        plan: of all shards.
        numbers: of those to encode, ascending.
        meter: is told of what is done.
        bounds: when to end early.

    Returns:
        How many were encoded.

    Raises:
        BulkError: Ray is not installed, an input cannot be read, or too much is wrong with its rows.
    """
    if ray is None:
        raise BulkError("--engine ray needs Ray: pip install '.[ray]'")
    if options.url:
        raise BulkError("--engine ray encodes by itself, and --url asks a service: leave one of them out")
    started: dict[str, Any] = {} if options.address else {"include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ray.init(options.address, runtime_env={"env_vars": VARIABLES}, log_to_driver=False, **started)
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray puts its own in their place
    try:
        actors = Actors(options, plan, numbers)
        encoded = 0
        while actors.busy or (actors.left and not bounds.stop.is_set()):
            if not bounds.stop.is_set():
                actors.fill()
            if ended := actors.take(is_ending=bounds.stop.is_set()):
                done = ended[1]
                encoded += len(ended[0])
                meter.add(done.rows, done.steps, done.padded_steps, done.errors)
            if bounds.max_errors is not None and meter.done.errors > bounds.max_errors:
                raise TooManyErrors(meter.done.errors, bounds.max_errors)
        return encoded
    finally:
        ray.shutdown()
