"""Times an encoder's runs over made batches, several at the same time as they will be in service."""

import math
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.costs.model import Shape
from service.encoder.sequences import Batch, Steps, Tokens, make_zeros
from service.encoder.session import EncoderSession

REPEATS = 2  # timed runs of each thread, after one that is not timed
TRIAL: Shape = (8, 32)  # the batch that decides between arrangements
TRIAL_REPEATS = 12
MARGIN = 1.1  # what several threads in a run must gain over runs of one: those also serve single sequences better

FEW_RUNNERS = 3  # so many never waited for each other; measured on 2 CPUs
# What one interpreter served in requests of 32, however many runners it had: measured on 16 CPUs.
INTERPRETER_SEQUENCES = 28_500

OpenSession: TypeAlias = Callable[[int], EncoderSession]  # with so many threads in a run


class Timed(NamedTuple):
    """A run: the seconds it took, and for how many of them its thread had a CPU."""

    seconds: float
    cpu_seconds: float


class Arrangement(BaseModel):
    """How the CPUs are shared out, and what that was measured to give."""

    model_config = ConfigDict(frozen=True)

    runners: int = Field(ge=1, description="Runs at the same time.")
    threads: int = Field(ge=1, description="Threads in each.")
    sequences_per_second: float | None = Field(
        None, description="Of 32 steps, in batches of 8; null if there was nothing to compare."
    )


def arrange(session: EncoderSession, reopen: OpenSession, cpus: int, runners: int, threads: int) -> list[Arrangement]:
    """Try the ways to share the CPUs out between runs and the threads within them.

    Args:
        session: the encoder with `threads` threads in a run, or one.
        reopen: opens it with another number.
        cpus: how many may be used.
        runners: runs at the same time; 0 leaves them open.
        threads: threads in a run; 0 leaves them open.

    Returns:
        Those tried, the best first.
    """
    if runners:
        within = [threads or most for most in (1, cpus // runners)]
        ways = [(runners, max(1, each)) for each in within]
    else:
        ways = [
            (count_runners(cpus // each), each)
            for each in ([threads] if threads else (1, 2, cpus))
            if each <= cpus or threads
        ]
    ways = list(dict.fromkeys(ways))
    if len(ways) == 1 and (runners or ways[0][0] <= FEW_RUNNERS):
        ((only, each),) = ways
        return [Arrangement(runners=only, threads=each)]
    tried = []
    for count, each in ways:
        one = session if each == (threads or 1) else reopen(each)
        speed = _try_out(one, count)
        if not runners and (useful := count_useful(count, speed)) < count:
            count, speed = useful, _try_out(one, useful)  # noqa: PLW2901 - fewer are as fast
        tried.append(Arrangement(runners=count, threads=each, sequences_per_second=round(speed)))
    return sorted(tried, key=_rank, reverse=True)


def measure_run(session: EncoderSession, shape: Shape, arrangement: Arrangement) -> float:
    """Return the seconds of a run over `shape` while as many run at a time as an arrangement says.

    Of a run on one thread only the time on a CPU counts, so that the table is the same however much else the machine
    does: what a run waits for CPUs is learnt while the service runs. It is the lower quartile of a few runs, since what
    disturbs one only ever adds time.
    """
    timed = time_runs(session, shape, arrangement.runners, REPEATS)
    seconds = sorted([run.seconds for run in timed])[len(timed) // 4]
    cpu_seconds = sorted([run.cpu_seconds for run in timed])[len(timed) // 4]
    if arrangement.threads > 1 or session.provider != "cpu" or not cpu_seconds:  # some clocks of threads are coarse
        return seconds
    return min(seconds, cpu_seconds)


def time_runs(session: EncoderSession, shape: Shape, runners: int, repeats: int) -> list[Timed]:
    """Time `runners * repeats` runs over a made batch of `shape`, `runners` at a time."""
    rows, steps = shape
    batch = Batch(_make_steps(session, shape), np.full(rows, steps, dtype=np.int64))
    started = threading.Barrier(runners)
    times: list[Timed] = []

    def run_repeatedly() -> None:
        try:
            session.run(batch)
        except BaseException:
            started.abort()  # or the others would wait for ever
            raise
        started.wait()
        for _ in range(repeats):
            began, cpu_began = time.perf_counter(), time.thread_time()
            session.run(batch)
            times.append(Timed(time.perf_counter() - began, time.thread_time() - cpu_began))

    with ThreadPoolExecutor(runners) as pool:
        try:
            running = [pool.submit(run_repeatedly) for _ in range(runners)]
        except RuntimeError:  # the system allows no more threads
            started.abort()
            raise
        # If some failed, one has the reason; the others say only that they waited for it.
        for one in sorted(running, key=lambda one: isinstance(one.exception(), threading.BrokenBarrierError)):
            one.result()
    return times


def _make_steps(session: EncoderSession, shape: Shape) -> Steps:
    """Make a full batch: standard normal features, or token ids that every vocabulary has."""
    if isinstance(session.kind, Tokens):
        return make_zeros(session.kind, *shape)
    return np.random.default_rng(0).standard_normal((*shape, session.kind.features)).astype(np.float32)


def count_runners(busy: int) -> int:
    """Return how many runners keep so many busy: one more, for while one waits for the interpreter; or just one."""
    return busy + 1 if busy > 1 else 1


def count_useful(runners: int, speed: float) -> int:
    """Return how many of so many runners one interpreter can keep at work.

    A runner needs the interpreter before and after each run. Once the runs that end together are more than it can read
    and hand back, further runners only fight for it: on 16 CPUs 17 of them served a small encoder slower than 8.

    Args:
        runners: how many ran at a time.
        speed: sequences a second that all of them encoded, without the service around them.
    """
    return min(runners, max(FEW_RUNNERS, 1 + math.ceil(INTERPRETER_SEQUENCES * runners / speed)))


def _try_out(session: EncoderSession, runners: int) -> float:
    """Return the sequences a second that so many runs at a time encode."""
    times = time_runs(session, TRIAL, runners, TRIAL_REPEATS)
    return runners * TRIAL[0] / statistics.median([run.seconds for run in times])


def _rank(tried: Arrangement) -> float:
    speed = tried.sequences_per_second or 0.0
    return speed * MARGIN if tried.threads == 1 else speed
