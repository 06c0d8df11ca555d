"""The engine under concurrency and faults: every request gets its own rows, and only culprits fail."""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.batching import jobs
from service.batching.batches import Delivery
from service.batching.engine import Engine, Observer
from service.batching.queue import Bounds, Queue
from service.batching.refining import refine
from service.batching.sharing import Queues
from service.costs.model import CostModel
from service.encoder.sequences import Batch, Embeddings, Features, Steps, join, pad_batch
from service.encoder.session import EncoderSession, open_session
from service.errors import DeadlinePassed, QueueFull, RunFailed, RunLost, Stuck
from tests.api.test_encode import PAIR
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


class Target(NamedTuple):
    """A model, as far as an engine knows it."""

    name: str
    session: EncoderSession
    queue: Queue
    version: str = "1"


class OneModel(Engine):
    """An engine for one model, with a queue of small batches."""

    def __init__(
        self,
        session: EncoderSession,
        costs: CostModel,
        runners: int = 1,
        queue: int = 10_000,
        observers: Sequence[Observer] = (),
        max_run_seconds: float = 30.0,
    ) -> None:
        queues = Queues(runners)
        super().__init__(queues, observers, max_run_seconds=max_run_seconds)
        self.costs = costs
        self._target = Target("made", session, queues.open(costs, Bounds(max_batch_steps=64, max_queue_steps=queue)))

    async def encode(self, *arguments: Any, **options: Any) -> Delivery:
        """Encode on that model."""
        return await super().encode(self._target, *arguments, **options)


def make_engine(
    session: EncoderSession,
    runners: int = 2,
    queue: int = 10_000,
    run_seconds: float = 1.0,
    observers: Sequence[Observer] = (),
    max_run_seconds: float = 30.0,
) -> OneModel:
    """Make an engine with small batches on the running loop; runs as long as that are left to the runners."""
    costs = CostModel({(rows, steps): run_seconds for rows in (1, 4) for steps in (1, 64)}, 4)
    return OneModel(session, costs, runners, queue, observers, max_run_seconds)


async def encode_all(engine: OneModel, requests: Sequence[Sequence[Steps]]) -> list[Delivery | BaseException]:
    """Encode all requests at once, and return an answer or an error for each."""
    return await asyncio.gather(
        *(engine.encode(join(request, Features(3))) for request in requests), return_exceptions=True
    )


def run_all(
    session: EncoderSession, requests: Sequence[Sequence[Steps]], **options: Any
) -> list[Delivery | BaseException]:
    """Do so on a loop and an engine of their own."""

    async def scenario() -> list[Delivery | BaseException]:
        engine = make_engine(session, **options)
        try:
            return await encode_all(engine, requests)
        finally:
            engine.close()

    return asyncio.run(scenario())


def test_concurrent_requests_get_what_they_would_alone(artifact: Path) -> None:
    """40 requests that share batches are answered bit for bit as if each sequence had been alone."""
    session = open_session(artifact)
    draw = np.random.default_rng(0)
    requests = [draw_sequences(draw.integers(0, 20, draw.integers(1, 7)).tolist(), seed=n) for n in range(40)]
    for request, answer in zip(requests, run_all(session, requests), strict=True):
        assert isinstance(answer, Delivery)
        alone = np.concatenate([session.run(pad_batch([steps])) for steps in request])
        assert answer.answer.embeddings.tobytes() == alone.tobytes()
        assert answer.padded_steps >= sum(map(len, request))
        assert answer.queue_seconds >= 0
        assert answer.run_seconds > 0


def test_waiting_requests_share_a_run(artifact: Path) -> None:
    """Requests that arrive in one turn of the loop run together."""
    sizes: list[int] = []

    def count(run: Run, batch: Batch) -> Embeddings:
        sizes.append(len(batch.lengths))
        return run(batch)

    run_all(make_session(artifact, count), [draw_sequences([5]) for _ in range(8)], runners=1)
    assert sizes == [4, 4]


@pytest.mark.parametrize(
    ("number", "run_seconds", "expected"),
    [(2, 1e-5, [3]), (1, 1e-5, [1, 1]), (2, 1.0, [2, 1])],
    ids=["little work of several", "a lone request", "work for a runner"],
)
def test_what_follows_several_requests_shares_their_run(
    artifact: Path, number: int, run_seconds: float, expected: list[int]
) -> None:
    """If work is little, and several requests came at once, those that come a turn later join it; none else waits."""
    sizes: list[int] = []

    def count(run: Run, batch: Batch) -> Embeddings:
        sizes.append(len(batch.lengths))
        return run(batch)

    async def scenario() -> None:
        engine = make_engine(make_session(artifact, count), runners=1, run_seconds=run_seconds)
        sequences = join(draw_sequences([5]), Features(3))
        asked = [asyncio.create_task(engine.encode(sequences)) for _ in range(number)]
        await asyncio.sleep(0)
        asked.append(asyncio.create_task(engine.encode(sequences)))
        await asyncio.gather(*asked)
        engine.close()

    asyncio.run(scenario())
    assert sizes == expected


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
        assert isinstance(answer, Delivery)
        assert answer.answer.embeddings.tobytes() == session.run(pad_batch(request)).tobytes()


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


def test_little_work_needs_no_thread(artifact: Path) -> None:
    """While all that waits should take no longer than a hand-over, the event loop does it; else the runners do."""
    names: list[str] = []

    def note(run: Run, batch: Batch) -> Embeddings:
        names.append(threading.current_thread().name)
        return run(batch)

    session = make_session(artifact, note)
    (short,) = run_all(session, [draw_sequences([5])], run_seconds=1e-5)
    (long,) = run_all(session, [draw_sequences([5])])
    run_all(session, [draw_sequences([60, 20])], run_seconds=0.0015)
    assert isinstance(short, Delivery)
    assert isinstance(long, Delivery)
    assert short.answer.embeddings.tobytes() == long.answer.embeddings.tobytes()
    main = threading.main_thread().name
    assert names[0] == main
    assert names[1].startswith("lengthwise-runner")
    assert sorted(name == main for name in names[2:]) == [False, True]  # the second of two, once it is all that is left


def test_a_cancelled_request_leaves_the_queue(artifact: Path) -> None:
    """What still waits of it never runs, and others are answered."""
    gate = threading.Event()
    ran: list[int] = []

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(60)
        ran.append(int(batch.lengths.max()))
        return run(batch)

    async def scenario() -> None:
        engine = make_engine(make_session(artifact, wait), runners=1)
        blocker = asyncio.create_task(engine.encode(join(draw_sequences([1]), Features(3))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(engine.encode(join(draw_sequences([2]), Features(3))))
        stays = asyncio.create_task(engine.encode(join(draw_sequences([3]), Features(3))))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(blocker, stays)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        engine.close()

    asyncio.run(scenario())
    assert ran == [1, 3]


def test_a_request_cancelled_while_it_runs_hurts_nobody(artifact: Path) -> None:
    """Its rows are dropped when the run ends, and its batch mates get theirs."""
    gate = threading.Event()

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(60)
        return run(batch)

    async def scenario() -> Delivery:
        engine = make_engine(make_session(artifact, wait), runners=1)
        cancelled = asyncio.create_task(engine.encode(join(draw_sequences([2]), Features(3))))
        stays = asyncio.create_task(engine.encode(join(draw_sequences([2]), Features(3))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.set()
        answer = await stays
        engine.close()
        return answer

    encoded = asyncio.run(scenario())
    assert encoded.answer.embeddings.tobytes() == open_session(artifact).run(pad_batch(draw_sequences([2]))).tobytes()


def test_a_full_queue_refuses_one_and_answers_the_rest(artifact: Path) -> None:
    """The bound is on waiting steps, and the refusal computes when to come back."""
    requests = [draw_sequences([60]), draw_sequences([60])]
    first, second = run_all(open_session(artifact), requests, runners=1, queue=100)
    assert isinstance(first, Delivery)
    assert isinstance(second, QueueFull)
    assert (second.retry_after_seconds or 0) >= 1


def test_a_request_past_its_deadline_is_told_so(artifact: Path) -> None:
    """It is answered when the time is up, running or not; what waits of it never runs, and others are answered."""
    gate = threading.Event()
    ran: list[int] = []

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(60)
        ran.append(int(batch.lengths.max()))
        return run(batch)

    async def scenario(seconds: float) -> list[Delivery | BaseException]:
        engine = make_engine(make_session(artifact, wait), runners=1, run_seconds=0.002)
        soon = time.perf_counter() + seconds
        tasks = [
            asyncio.create_task(engine.encode(join(draw_sequences([length]), Features(3)), deadline))
            for length, deadline in ((50, soon), (40, soon), (30, inf))
        ]
        late = await asyncio.gather(*tasks[:2], return_exceptions=True)
        gate.set()
        answers = [*late, await tasks[2]]
        engine.close()
        return answers

    for seconds in (0.05, 0.5, 5.0):
        gate.clear()
        ran.clear()
        running, waiting, stays = asyncio.run(scenario(seconds))
        assert isinstance(running, DeadlinePassed)
        assert isinstance(waiting, DeadlinePassed)
        assert isinstance(stays, Delivery)
        assert ran[-1] == 30
        if len(ran) == 2:  # else this machine was so busy that nothing ran in time
            return
    pytest.fail(f"the first was not begun, or the second was, within 5 s: {ran}")


def test_answers_that_nobody_waits_for_are_dropped(artifact: Path) -> None:
    """A run that outlasts the event loop ends without a word."""
    gate = threading.Event()

    def wait(run: Run, batch: Batch) -> Embeddings:
        gate.wait(60)
        return run(batch)

    async def scenario() -> Engine:
        engine = make_engine(make_session(artifact, wait))
        task = asyncio.create_task(engine.encode(join(draw_sequences([4]), Features(3))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        return engine

    engine = asyncio.run(scenario())
    gate.set()
    engine.close()


@pytest.mark.parametrize("times", [1, 2])
def test_a_runner_that_dies_is_replaced(artifact: Path, times: int) -> None:
    """What it ran is run once more; if that thread dies too, its request is told so, and others are answered."""
    left = [times]

    def die(run: Run, batch: Batch) -> Embeddings:
        if batch.steps.shape[1] == 7 and left[0]:
            left[0] -= 1
            raise SystemExit
        return run(batch)

    async def scenario() -> list[Delivery | BaseException]:
        engine = make_engine(make_session(artifact, die), runners=1)
        answers = await encode_all(engine, [draw_sequences([7])])
        answers += await encode_all(engine, [draw_sequences([4])])
        engine.close()
        return answers

    victim, other = asyncio.run(scenario())
    session = open_session(artifact)
    for answer, length in ((victim, 7), (other, 4)):
        if answer is victim and times == 2:
            assert isinstance(answer, RunLost)
        else:
            assert isinstance(answer, Delivery)
            alone = session.run(pad_batch(draw_sequences([length])))
            assert answer.answer.embeddings.tobytes() == alone.tobytes()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What hung runs wait for; nobody waits for them."""
    monkeypatch.setattr("service.batching.runners.CLOSE_SECONDS", 0.0)
    opened = threading.Event()
    yield opened
    opened.set()


def hang(gate: threading.Event) -> Callable[[Run, Batch], Embeddings]:
    """Make a run that hangs on sequences of 7 steps."""

    def run_or_hang(run: Run, batch: Batch) -> Embeddings:
        if batch.steps.shape[1] == 7:
            gate.wait(60)
        return run(batch)

    return run_or_hang


def test_a_runner_that_hangs_is_given_up_and_replaced(artifact: Path, gate: threading.Event) -> None:
    """Its request gets an error in time, others wait no longer; when it comes back after all nothing is confused."""
    confused: list[dict[str, Any]] = []

    async def scenario() -> list[Delivery | BaseException]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: confused.append(context))
        engine = make_engine(make_session(artifact, hang(gate)), runners=1, max_run_seconds=0.05)
        given_up = engine._runners._runners[0].thread
        hung = asyncio.create_task(encode_all(engine, [draw_sequences([7])]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        hung.add_done_callback(lambda _: setattr(engine._runners, "_max_run_seconds", 60.0))  # the rest may be slow
        waits = await encode_all(engine, [draw_sequences([4])])
        answers = await hung + waits
        gate.set()
        given_up.join(60)
        answers += await encode_all(engine, [draw_sequences([7])])
        engine.close()
        return answers

    hung, waited, later = asyncio.run(scenario())
    assert isinstance(hung, RunLost)
    assert "LENGTHWISE_MAX_RUN_SECONDS" in str(hung)
    assert isinstance(waited, Delivery)
    assert isinstance(later, Delivery)
    assert not confused


def test_where_every_runner_hangs_nobody_waits_for_ever(artifact: Path, gate: threading.Event) -> None:
    """A runner is replaced once. After that requests are refused, those that wait as well, and the engine is stuck."""

    async def scenario() -> tuple[list[Delivery | BaseException], list[bool]]:
        engine = make_engine(make_session(artifact, hang(gate)), runners=1)
        now = time.perf_counter()
        requests = [draw_sequences([7]) for _ in range(9)]
        waiting = asyncio.create_task(encode_all(engine, requests))
        stuck = []
        for turn in range(2):
            for _ in range(5):
                await asyncio.sleep(0)
            stuck += [engine.is_stuck(now + 40), engine.is_stuck(now + 50)]
            engine._runners.check(now + 31 * (turn + 1))
        answers = await waiting
        answers += await encode_all(engine, requests[:1])
        stuck.append(engine.is_stuck(now))  # nothing waits, and nothing could run
        engine.close()
        return answers, stuck

    answers, stuck = asyncio.run(scenario())
    kinds = [type(answer) for answer in answers]
    assert kinds == [RunLost] * 8 + [Stuck] * 2  # batches of 4
    assert stuck == [False, True, False, True, True]


def test_a_stream_that_waits_is_woken_when_the_last_runner_is_lost(artifact: Path, gate: threading.Event) -> None:
    """A stream waits for any run to end; once no run can end any more it is woken, and is told so if it tries again."""

    async def scenario() -> tuple[list[bool], list[Delivery | BaseException]]:
        engine = make_engine(make_session(artifact, hang(gate)), runners=1)
        requests, counted = [draw_sequences([7]) for _ in range(9)], []
        hung = asyncio.create_task(encode_all(engine, requests))
        woken = []
        for lost in (1, 2):  # the first of them is replaced
            for _ in range(5):
                await asyncio.sleep(0)
            waiting = asyncio.create_task(engine.wait_for_run())
            await asyncio.sleep(0)
            engine._runners.check(time.perf_counter() + 31 * lost)
            for _ in range(5):
                await asyncio.sleep(0)
            woken.append(waiting.done())
            waiting.cancel()
            counted.append(engine.count_runners())
        answers = await hung
        answers += await encode_all(engine, [draw_sequences([4])])
        engine.close()
        assert counted == [{"busy": 1, "idle": 0, "lost": 0}, {"busy": 0, "idle": 0, "lost": 1}]
        return woken, answers

    woken, answers = asyncio.run(scenario())
    assert woken == [True, True]
    assert isinstance(answers[-1], Stuck)


def test_a_thread_that_is_gone_without_a_word_is_noticed(artifact: Path) -> None:
    """A runner whose thread has ended is replaced by the next check."""

    async def scenario() -> Delivery | BaseException:
        engine = make_engine(open_session(artifact), runners=1)
        runner = engine._runners._runners[0]
        runner.inbox.put(None)
        runner.thread.join()
        engine._runners.check(0.0)
        (answer,) = await encode_all(engine, [draw_sequences([4])])
        engine.close()
        return answer

    assert isinstance(asyncio.run(scenario()), Delivery)


def test_what_is_remembered_of_a_request_holds_none_of_its_steps(artifact: Path) -> None:
    """Neither a run that an observer keeps nor a cancelled job that is still in its queue does."""
    kept: list[jobs.Run] = []
    gate = threading.Event()

    class Keeper:
        def see_batch(self, _model: object, run: jobs.Run, *_: object) -> None:
            kept.append(run)

        def see_cancelled(self, *_: object) -> None:
            pass

    async def scenario() -> list[bool]:
        engine = make_engine(make_session(artifact, hang(gate)), runners=1, observers=[Keeper()])
        steps: list[weakref.ref[Any]] = []

        def ask(length: int) -> asyncio.Task[Delivery]:
            sequences = join(draw_sequences([length]), Features(3))
            steps.append(weakref.ref(sequences.values))
            return asyncio.create_task(engine.encode(sequences))

        blocker = ask(7)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled = ask(4)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        del cancelled
        await asyncio.sleep(0)  # the loop itself holds what it did last
        gc.collect()
        was_released = steps[1]() is None  # while it is still in the queue
        gate.set()
        await blocker
        del blocker
        (runner,) = engine._runners._runners
        engine.close()
        runner.thread.join()  # it lets go of what it ran once it has told of it
        await asyncio.sleep(0)
        gc.collect()
        return [steps[0]() is None, was_released]

    assert asyncio.run(scenario()) == [True, True]
    assert [entry.steps for run in kept for entry in run.entries] == [7]


def test_small_requests_do_not_wait_for_long_bulk_runs(artifact: Path, gate: threading.Event) -> None:
    """While every runner is at bulk work, the event loop answers a small request itself."""

    async def scenario() -> tuple[Delivery, bool]:
        costs = CostModel({(1, 1): 1e-4, (1, 64): 0.1}, 1)
        engine = OneModel(make_session(artifact, hang(gate)), costs)
        bulk = asyncio.create_task(engine.encode(join(draw_sequences([7] * 6), Features(3))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        small = await engine.encode(join(draw_sequences([1]), Features(3)))
        was_waiting = not bulk.done()
        gate.set()
        await bulk
        engine.close()
        return small, was_waiting

    small, was_waiting = asyncio.run(scenario())
    assert was_waiting
    alone = open_session(artifact).run(pad_batch(draw_sequences([1])))
    assert small.answer.embeddings.tobytes() == alone.tobytes()


class MadeCalibrator:
    """A calibrator with two shapes to measure, during the first of which a request comes."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.asked: list[tuple[int, int]] = []
        self.saved: dict[tuple[int, int], float] = {}
        self.interrupt: Callable[[], None] = lambda: None

    def choose_shape(self) -> tuple[int, int] | None:
        """Return what is not measured yet."""
        left = [shape for shape in ((1, 8), (2, 8)) if shape not in self.costs.measured]
        return left[0] if left else None

    def measure(self, shape: tuple[int, int]) -> float:
        """Take half a second, on paper."""
        self.asked.append(shape)
        if len(self.asked) == 1:
            self.interrupt()
        return 0.5

    def save(self) -> None:
        """Keep what is there."""
        self.saved = self.costs.measured


def test_idle_time_refines_the_costs(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the calibration left out is measured while nothing is asked; a figure taken beside a request is not used."""
    monkeypatch.setattr("service.batching.refining.IDLE_SECONDS", 0.0)

    async def scenario() -> MadeCalibrator:
        engine = make_engine(open_session(artifact))
        calibrator = MadeCalibrator(engine.costs)
        loop = asyncio.get_running_loop()

        def ask() -> None:
            request = asyncio.run_coroutine_threadsafe(engine.encode(join(draw_sequences([4]), Features(3))), loop)
            request.result(60)

        calibrator.interrupt = ask
        await refine(engine, calibrator, engine.costs, lambda: True)
        engine.close()
        return calibrator

    calibrator = asyncio.run(scenario())
    assert calibrator.asked == [(1, 8), (1, 8), (2, 8)]
    assert (calibrator.saved[1, 8], calibrator.saved[2, 8]) == (0.5, 0.5)


def test_an_encoder_that_is_gone_is_not_measured_further(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is kept, and the memory of one that was replaced is not held until all is measured."""
    monkeypatch.setattr("service.batching.refining.IDLE_SECONDS", 0.0)

    async def scenario() -> MadeCalibrator:
        engine = make_engine(open_session(artifact))
        calibrator = MadeCalibrator(engine.costs)
        await refine(engine, calibrator, engine.costs, lambda: not calibrator.asked)
        engine.close()
        return calibrator

    calibrator = asyncio.run(scenario())
    assert calibrator.asked == [(1, 8)]
    assert calibrator.saved[1, 8] == 0.5


def test_an_observer_that_fails_costs_no_answer(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests are answered all the same, and the log has the reason."""

    class Broken:
        def see_batch(self, *_: object) -> None:
            raise RuntimeError("broken")

        def see_cancelled(self, _where: str) -> None:
            raise RuntimeError("broken")

    logging.getLogger("lengthwise").addHandler(caplog.handler)
    answers = run_all(open_session(artifact), [draw_sequences([3, 4]), draw_sequences([5])], observers=[Broken()])
    logging.getLogger("lengthwise").removeHandler(caplog.handler)
    assert all(isinstance(answer, Delivery) for answer in answers)
    assert "broken" in caplog.text


def test_memory_is_released_once_requests_have_ended(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each time, and not while they go on."""
    monkeypatch.setattr("service.upkeep.IDLE_SECONDS", 0.01)
    client = serve()
    released = threading.Semaphore(0)
    session = client.app.state.service.models.find(None).session  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "release_memory", released.release)
    for _ in range(2):
        client.post("/encode", json={"sequences": PAIR})
        assert released.acquire(timeout=60)
        assert not released.acquire(timeout=0.1)


def test_a_run_that_another_process_lost_is_nobodys_fault(artifact: Path) -> None:
    """Every request in it is told that it was lost, none is halved to find a culprit, and the next is answered."""
    runs: list[int] = []

    def lose(run: Run, batch: Batch) -> Embeddings:
        runs.append(len(batch.lengths))
        if len(runs) == 1:
            raise RunLost("the process that owns the GPU ended")
        return run(batch)

    session = make_session(artifact, lose)
    requests = [draw_sequences([3]), draw_sequences([4])]
    found = run_all(session, requests, runners=1)
    assert [str(one) for one in found] == ["The model's run was lost: the process that owns the GPU ended."] * 2
    assert runs == [2]
    assert isinstance(run_all(session, requests[:1])[0], Delivery)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_batch_knows_its_rows_deadlines(artifact: Path, *, keeps: bool) -> None:
    """Who runs it later can leave out what is late by then; else, or if no request has a deadline, nothing is said."""
    seen: list[list[float] | None] = []

    def note(run: Run, batch: Batch) -> Embeddings:
        seen.append(None if batch.deadlines is None else batch.deadlines.tolist())
        return run(replace(batch, deadlines=None))

    async def scenario() -> float:
        session = make_session(artifact, note)
        session.keeps_deadlines = keeps
        engine = make_engine(session, runners=1)
        deadline = time.perf_counter() + 1000
        try:
            await encode_all(engine, [draw_sequences([3])])
            await asyncio.gather(
                engine.encode(join(draw_sequences([4]), Features(3)), deadline),
                engine.encode(join(draw_sequences([5]), Features(3))),
            )
        finally:
            engine.close()
        return deadline

    deadline = asyncio.run(scenario())
    assert seen == [None, [deadline, inf] if keeps else None]
