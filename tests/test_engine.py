"""The engine under concurrency and faults: every request gets its own rows, and only culprits fail."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.engine import Encoded, Engine
from service.errors import QueueFull, RunFailed
from service.scheduler import Scheduler
from service.sequences import Batch, Embeddings, Steps, join, pad_batch
from service.session import EncoderSession, open_session
from tests.conftest import draw_sequences

Run = Callable[[Batch], Embeddings]


def make_session(artifact: Path, change: Callable[[Run, Batch], Embeddings]) -> EncoderSession:
    """Open the artifact with another run, which gets the real one and the batch."""
    session = open_session(artifact)
    run = session.run
    session.run = lambda batch: change(run, batch)  # type: ignore[method-assign]
    return session


def spoil(run: Run, batch: Batch) -> Embeddings:
    """Fail on steps of 666, and give NaN for steps of 999."""
    first = batch.steps[:, 0, 0]
    if (first == 666).any():
        raise RuntimeError("spoiled")
    embeddings = run(batch)
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

    def count(run: Run, batch: Batch) -> Embeddings:
        sizes.append(len(batch.lengths))
        return run(batch)

    engine = make_engine(make_session(artifact, count), runners=1)
    asyncio.run(encode_all(engine, [draw_sequences([5]) for _ in range(8)]))
    engine.close()
    assert sizes == [4, 4]


@pytest.mark.parametrize(("mark", "reason"), [(666, "failed with RuntimeError"), (999, "not finite")])
def test_only_the_culprit_fails(artifact: Path, mark: float, reason: str) -> None:
    """Batch mates of a sequence the model fails on are answered; its own request names it."""
    session = make_session(artifact, spoil)
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


def test_what_fails_is_logged_with_its_reason(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns the kind of failure; the log has the exception and the shape."""
    logging.getLogger("lengthwise").addHandler(caplog.handler)  # a server may have stopped its records from rising
    bad = draw_sequences([4])
    bad[0][:] = 666
    run_all(make_session(artifact, spoil), [bad])
    logging.getLogger("lengthwise").removeHandler(caplog.handler)
    record = caplog.records[0]
    assert "(4, 3)" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "spoiled"


def test_a_model_that_loses_rows_fails_every_request_by_name(artifact: Path) -> None:
    """Where a run does not give one embedding a sequence, nothing is guessed and nothing hangs."""
    session = make_session(artifact, lambda run, batch: run(batch)[1:])
    answers = run_all(session, [draw_sequences([4, 2]), draw_sequences([3])])
    assert all(isinstance(answer, RunFailed) for answer in answers)


def test_runners_that_cannot_start_fail_requests_and_later_ones_recover(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process out of threads answers an error; once it has threads again, it encodes."""
    engine = make_engine(open_session(artifact))

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> list[Encoded | BaseException]:
        with monkeypatch.context() as patch:
            patch.setattr(ThreadPoolExecutor, "submit", refuse)
            (refused,) = await encode_all(engine, [draw_sequences([4, 2])])
        return [refused, *await encode_all(engine, [draw_sequences([4, 2])])]

    refused, encoded = asyncio.run(scenario())
    engine.close()
    assert isinstance(refused, RunFailed)
    assert "can't start new thread" in str(refused)
    assert isinstance(encoded, Encoded)


def test_a_cancelled_request_leaves_the_queue(artifact: Path) -> None:
    """What still waits of it never runs, and others are answered."""
    gate = threading.Event()
    ran: list[int] = []

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(10)
        ran.append(int(batch.lengths.max()))
        return run(batch)

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

    engine = make_engine(make_session(artifact, wait), runners=1)
    asyncio.run(scenario())
    engine.close()
    assert ran == [1, 3]


def test_a_request_cancelled_while_it_runs_hurts_nobody(artifact: Path) -> None:
    """Its rows are dropped when the run ends, and its batch mates get theirs."""
    gate = threading.Event()

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(10)
        return run(batch)

    async def scenario() -> Encoded:
        cancelled = asyncio.create_task(engine.encode(join(draw_sequences([2]), 3)))
        stays = asyncio.create_task(engine.encode(join(draw_sequences([2]), 3)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.set()
        return await stays

    engine = make_engine(make_session(artifact, wait), runners=1)
    encoded = asyncio.run(scenario())
    engine.close()
    assert encoded.embeddings.tobytes() == open_session(artifact).run(pad_batch(draw_sequences([2]))).tobytes()


def test_a_full_queue_refuses_one_and_answers_the_rest(artifact: Path) -> None:
    """The bound is on waiting steps, and the refusal computes when to come back."""
    engine = make_engine(open_session(artifact), runners=1, queue=100)
    first, second = asyncio.run(encode_all(engine, [draw_sequences([60]), draw_sequences([60])]))
    engine.close()
    assert isinstance(first, Encoded)
    assert isinstance(second, QueueFull)
    assert (second.retry_after_seconds or 0) >= 1
