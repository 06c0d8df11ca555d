"""The engine under concurrency and faults: every request gets its own rows, and only culprits fail."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.engine import Encoded, Engine
from service.errors import QueueFull, RunFailed
from service.scheduler import Scheduler
from service.sequences import Batch, Embeddings, Steps, join, pad_batch
from service.session import EncoderSession, open_session
from tests.conftest import draw_sequences


class Spoiled(EncoderSession):
    """A session that fails on steps of 666, and gives NaN for steps of 999."""

    def run(self, batch: Batch) -> Embeddings:
        """Run, unless the batch holds a spoiled row."""
        first = batch.steps[:, 0, 0]
        if (first == 666).any():
            raise RuntimeError("spoiled")
        embeddings = super().run(batch)
        embeddings[first == 999] = np.nan
        return embeddings


def make_engine(session: EncoderSession, runners: int = 2, queue: int = 10_000) -> Engine:
    """Make an engine with small batches."""
    return Engine(session, Scheduler(max_batch_sequences=4, max_batch_steps=64, max_queue_steps=queue), runners)


async def encode_all(engine: Engine, requests: Sequence[Sequence[Steps]]) -> list[Encoded | BaseException]:
    """Encode all requests at once, and return an answer or an error for each."""
    return await asyncio.gather(*(engine.encode(join(request, 3)) for request in requests), return_exceptions=True)


def run_all(session: EncoderSession, requests: Sequence[Sequence[Steps]]) -> list[Encoded | BaseException]:
    """Do so on a loop and an engine of their own."""
    engine = make_engine(session)
    try:
        return asyncio.run(encode_all(engine, requests))
    finally:
        engine.close()


def test_concurrent_requests_get_what_they_would_alone(artifact: Path) -> None:
    """40 requests that share batches are answered bit for bit as if each sequence had been alone."""
    session = open_session(artifact)
    draw = np.random.default_rng(0)
    requests = [draw_sequences(draw.integers(0, 20, draw.integers(1, 7)).tolist(), seed=n) for n in range(40)]
    for request, answer in zip(requests, run_all(session, requests), strict=True):
        assert isinstance(answer, Encoded)
        alone = np.concatenate([session.run(pad_batch([steps])) for steps in request])
        assert answer.embeddings.tobytes() == alone.tobytes()
        assert answer.padded_steps >= sum(map(len, request))
        assert answer.queue_seconds >= 0
        assert answer.run_seconds > 0


def test_waiting_requests_share_a_run(artifact: Path) -> None:
    """Requests that arrive in one turn of the loop run together."""
    sizes: list[int] = []

    class Counting(EncoderSession):
        def run(self, batch: Batch) -> Embeddings:
            sizes.append(len(batch.lengths))
            return super().run(batch)

    session = Counting(artifact.read_bytes(), "made")
    engine = make_engine(session, runners=1)
    asyncio.run(encode_all(engine, [draw_sequences([5]) for _ in range(8)]))
    engine.close()
    assert sizes == [4, 4]


@pytest.mark.parametrize(("mark", "reason"), [(666, "failed with RuntimeError"), (999, "not finite")])
def test_only_the_culprit_fails(artifact: Path, mark: float, reason: str) -> None:
    """Batch mates of a sequence the model fails on are answered; its own request names it."""
    session = Spoiled(artifact.read_bytes(), "made")
    good = draw_sequences([4, 4, 4])
    bad = draw_sequences([4, 4])
    bad[1][:] = mark
    mixed = [good[:1], bad, good[1:]]
    first, failed, last = run_all(session, mixed)
    assert isinstance(failed, RunFailed)
    assert failed.path == "sequences[1]"
    assert reason in str(failed)
    for answer, request in ((first, good[:1]), (last, good[1:])):
        assert isinstance(answer, Encoded)
        assert answer.embeddings.tobytes() == session.run(pad_batch(request)).tobytes()


def test_a_cancelled_request_leaves_the_queue(artifact: Path) -> None:
    """What still waits of it never runs, and others are answered."""
    gate = threading.Event()
    ran: list[int] = []

    class Gated(EncoderSession):
        def run(self, batch: Batch) -> Embeddings:
            gate.wait(10)
            ran.append(int(batch.lengths.max()))
            return super().run(batch)

    async def scenario() -> None:
        blocker = asyncio.create_task(engine.encode(join(draw_sequences([1]), 3)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(engine.encode(join(draw_sequences([2]), 3)))
        stays = asyncio.create_task(engine.encode(join(draw_sequences([3]), 3)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(blocker, stays)
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    engine = make_engine(Gated(artifact.read_bytes(), "made"), runners=1)
    asyncio.run(scenario())
    engine.close()
    assert ran == [1, 3]


def test_a_request_cancelled_while_it_runs_hurts_nobody(artifact: Path) -> None:
    """Its rows are dropped when the run ends, and its batch mates get theirs."""
    gate = threading.Event()

    class Gated(EncoderSession):
        def run(self, batch: Batch) -> Embeddings:
            gate.wait(10)
            return super().run(batch)

    async def scenario() -> Encoded:
        cancelled = asyncio.create_task(engine.encode(join(draw_sequences([2]), 3)))
        stays = asyncio.create_task(engine.encode(join(draw_sequences([2]), 3)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.set()
        return await stays

    session = Gated(artifact.read_bytes(), "made")
    engine = make_engine(session, runners=1)
    encoded = asyncio.run(scenario())
    engine.close()
    assert encoded.embeddings.tobytes() == session.run(pad_batch(draw_sequences([2]))).tobytes()


def test_a_full_queue_refuses_one_and_answers_the_rest(artifact: Path) -> None:
    """The bound is on waiting steps, and the refusal computes when to come back."""
    engine = make_engine(open_session(artifact), runners=1, queue=100)
    first, second = asyncio.run(encode_all(engine, [draw_sequences([60]), draw_sequences([60])]))
    engine.close()
    assert isinstance(first, Encoded)
    assert isinstance(second, QueueFull)
    assert (second.retry_after_seconds or 0) >= 1
