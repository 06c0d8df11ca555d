"""Which blocks of rows share a run, how they are laid out, and what each is answered."""

import mmap
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.encoder.region import (
    ANSWERED,
    DONE,
    FAILED,
    MESSAGE_BYTES,
    SHAPE,
    Region,
    place_inputs,
    place_outputs,
)
from service.encoder.runtime import CUDA_DEFAULTS, DEADLINES, Feed, LocalRuntime
from service.encoder.sequences import Batch, Embeddings, pad_batch
from service.encoder.session import EncoderSession
from service.server.owner.blocks import Block, Channel, Staging, lock_pages
from service.server.owner.choosing import choose
from service.server.owner.graphs import Graph
from service.server.owner.merging import Merger
from tests.conftest import MADE, draw_sequences

CONTENT = MADE.read_bytes()
EMBEDDING = 1  # the bit of what is asked for


@dataclass(slots=True, eq=False)
class Waits:
    """Rows that wait, as far as the choice looks at them."""

    rows: int
    steps: int
    due: float = 0.0
    company: object = "one"


def flat(rows: int, steps: int) -> float:
    """Predict what a GPU takes: a step costs the same for any number of rows up to 1,000."""
    return 1e-3 + 3e-5 * steps * max(1.0, rows / 1000)


def test_short_and_long_share_a_run_if_a_step_costs_the_same_for_all() -> None:
    """All of eight askers' rows are one run of hundreds, shortest first."""
    waiting = [Waits(32, steps) for steps in (50, 200, 40, 60, 55, 45, 52, 48)]
    chosen = choose(waiting, flat, 131_072)
    assert sum(block.rows for block in chosen) == 256
    assert [block.steps for block in chosen] == sorted(block.steps for block in waiting)


def test_short_rows_do_not_wait_for_long_ones_if_every_padded_step_costs() -> None:
    """Where a run costs what it is padded to, the short are apart, and the most urgent run first."""
    waiting = [Waits(32, 10, due=2.0), Waits(32, 500, due=1.0), Waits(32, 11, due=3.0)]
    assert choose(waiting, lambda rows, steps: 1e-6 * rows * steps, 10**9) == [waiting[1]]
    waiting[0].due = 0.5
    assert choose(waiting, lambda rows, steps: 1e-3 + 1e-6 * rows * steps, 10**9) == [waiting[0], waiting[2]]


@given(
    st.lists(
        st.builds(Waits, st.integers(1, 600), st.integers(1, 300), st.floats(0, 9), st.sampled_from("ab")), min_size=1
    ),
    st.integers(1, 50_000),
)
def test_the_most_urgent_runs_next_among_its_like_and_within_the_budget(waiting: list[Waits], budget: int) -> None:
    """Whatever waits, nothing is chosen twice, and a run over the budget is one block alone."""
    chosen = choose(waiting, flat, budget)
    urgent = min(waiting, key=lambda block: block.due)
    assert urgent in chosen
    assert {block.company for block in chosen} == {urgent.company}
    assert len(set(map(id, chosen))) == len(chosen)
    assert [block.steps for block in chosen] == sorted(block.steps for block in chosen)
    assert len(chosen) == 1 or sum(block.rows for block in chosen) * chosen[-1].steps <= budget


class Counting(LocalRuntime):
    """Runs on the CPU, and notes what."""

    def __init__(self) -> None:
        super().__init__(CONTENT, "made.onnx", "cpu", 1, CUDA_DEFAULTS)
        self.shapes: list[tuple[int, ...]] = []
        self.most = 10**9
        self._really, self.run = self.run, self._note

    def _note(self, outputs: Sequence[str], feed: Feed) -> list[npt.NDArray[np.float32]]:
        """Run if there is room, and note the shape."""
        rows, steps = feed["sequences"].shape[:2]
        self.shapes.append((rows, steps))
        if rows * steps > self.most:
            raise MemoryError("the arena is full")
        return self._really(outputs, feed)


@pytest.fixture
def runtime() -> Counting:
    """What runs."""
    return Counting()


@pytest.fixture
def merger() -> Merger:
    """What merges; its threads wait for ever when the test is over."""
    return Merger("cpu", Region.of(8), 1, 0)


@pytest.fixture
def graph(runtime: Counting) -> Graph:
    """A graph whose runs cost as much as a GPU's."""
    measured = {(rows, steps): flat(rows, steps) for rows in (1, 1000) for steps in (8, 64)}
    graph = Graph(Region.of(1), runtime, measured, 10**6, threading.Lock())
    runtime.shapes.clear()
    return graph


class Asker:
    """A channel, seen from its other end."""

    def __init__(self, graph: Graph) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.channel = Channel(theirs, graph)

    def __del__(self) -> None:
        self.socket.close()
        self.channel.socket.close()

    def hand_in(self, batch: Batch, due: float = inf) -> Block:
        """Lay a batch out in shared memory, and return what waits then."""
        graph = self.channel.graph
        assert graph is not None
        rows, steps = batch.steps.shape[:2]
        places, size = place_inputs(graph.runtime.inputs, rows, steps, dated=batch.deadlines is not None)
        self.channel.region = Region.of(size)
        given = {"sequences": batch.steps, "lengths": batch.lengths, DEADLINES: batch.deadlines}
        for place in places:
            self.channel.region.array(place)[...] = given[place.name]
        return Block.of(self.channel, graph, (7, rows, steps, EMBEDDING, int(batch.deadlines is not None)), due)

    def wait(self) -> Embeddings | str:
        """Return what it is answered."""
        said = self.socket.recv(MESSAGE_BYTES)
        number, state = ANSWERED.unpack_from(said)
        assert number == 7
        if state == FAILED:
            return said[ANSWERED.size :].decode()
        assert state == DONE
        shapes = [tuple(size for size in shape if size) for shape in SHAPE.iter_unpack(said[ANSWERED.size :])]
        ((place,), _), region = place_outputs(shapes), self.channel.region
        assert region is not None
        rows: Embeddings = region.array(place).copy()
        return rows


def draw(lengths: list[int], seed: int) -> Batch:
    """Draw a batch."""
    return pad_batch(draw_sequences(lengths, seed=seed))


def same(found: Embeddings | str, batch: Batch) -> bool:
    """Whether rows have the bits that they have in a session of this process."""
    assert isinstance(found, np.ndarray)
    return found.tobytes() == EncoderSession(CONTENT, "made.onnx").run(batch).tobytes()


def test_what_waits_while_the_device_is_busy_is_one_run(merger: Merger, graph: Graph, runtime: Counting) -> None:
    """Nine askers with 32 rows of other lengths each: one is laid out first, the rest is one run of 256 rows."""
    askers = [Asker(graph) for _ in range(9)]
    batches = [draw([1 + (seed + row) % 40 for row in range(32)], seed) for seed in range(9)]
    with merger.device:  # as if something ran
        merger.add(askers[0].hand_in(batches[0]))
        while not merger._is_laying_out:
            time.sleep(0.001)
        for asker, batch in zip(askers[1:], batches[1:], strict=True):
            merger.add(asker.hand_in(batch))
    for asker, batch in zip(askers, batches, strict=True):
        assert same(asker.wait(), batch)
    assert [rows for rows, _ in runtime.shapes] == [32, 256]


def test_rows_past_their_deadline_are_not_run(merger: Merger, graph: Graph, runtime: Counting) -> None:
    """They get zeros, which nobody waits for; the others of their block get what they would have got."""
    now = time.perf_counter()
    batch, asker = draw([5, 9, 3], 1), Asker(graph)
    late = Batch(batch.steps, batch.lengths, deadlines=np.array([now + 1000, now - 1, inf]))
    merger.add(asker.hand_in(late))
    found = asker.wait()
    assert isinstance(found, np.ndarray)
    alone = EncoderSession(CONTENT, "made.onnx").run(batch)
    assert found[[0, 2]].tobytes() == alone[[0, 2]].tobytes()
    assert not found[1].any()
    assert runtime.shapes == [(2, 9)]
    merger.add(asker.hand_in(Batch(batch.steps, batch.lengths, deadlines=np.full(3, now - 1))))
    found = asker.wait()
    assert isinstance(found, np.ndarray)
    assert not found.any()
    assert runtime.shapes == [(2, 9)]


def test_a_run_too_large_for_the_memory_is_done_in_parts_and_not_tried_again(
    merger: Merger, graph: Graph, runtime: Counting
) -> None:
    """Each block is run alone, all are answered, and later runs have half of what was too much at most."""
    runtime.most = 1000
    askers = [Asker(graph) for _ in range(5)]
    batches = [draw([10] * 50, seed) for seed in range(5)]
    for expected in ([(50, 10), (200, 10), *[(50, 10)] * 4], [(50, 10), (100, 10), (100, 10)]):
        with merger.device:
            merger.add(askers[0].hand_in(batches[0]))
            while not merger._is_laying_out:
                time.sleep(0.001)
            for asker, batch in zip(askers[1:], batches[1:], strict=True):
                merger.add(asker.hand_in(batch))
        for asker, batch in zip(askers, batches, strict=True):
            assert same(asker.wait(), batch)
        assert graph.budget == 1000
        assert runtime.shapes == expected
        runtime.shapes.clear()
    runtime.most = 1
    merger.add(askers[0].hand_in(batches[0]))
    assert askers[0].wait() == "MemoryError: the arena is full"


def test_what_waits_of_a_channel_that_ended_is_not_run(merger: Merger, graph: Graph, runtime: Counting) -> None:
    """Its rows are forgotten, and its memory with them."""
    askers = [Asker(graph) for _ in range(3)]
    with merger.device:
        merger.add(askers[0].hand_in(draw([4], 0)))
        while not merger._is_laying_out:
            time.sleep(0.001)
        for asker in askers[1:]:
            merger.add(asker.hand_in(draw([4, 4], 1)))
        merger.drop(askers[1].channel)
    assert same(askers[2].wait(), draw([4, 4], 1))
    assert runtime.shapes == [(1, 4), (2, 4)]


@pytest.mark.parametrize(
    "asked", [(7, 0, 3, 1, 0), (7, 2, 0, 1, 0), (7, 2, 3, 0, 0), (7, 2, 3, 2, 0), (7, 2**20, 9, 1, 0)]
)
def test_what_cannot_be_meant_is_refused(graph: Graph, asked: tuple[int, int, int, int, int]) -> None:
    """No rows, no steps, no output, one that the graph has not, or more than is in the shared memory."""
    asker = Asker(graph)
    asker.hand_in(draw([3, 2], 0))
    with pytest.raises(ValueError, match=r"are not a run|is over the \d+ bytes shared"):
        Block.of(asker.channel, graph, asked, inf)


def test_lengths_beyond_the_steps_are_refused(graph: Graph) -> None:
    """The kernels would read past the end of the batch."""
    batch = draw([3, 2], 0)
    with pytest.raises(ValueError, match="lengths are not within 0 and 3"):
        Asker(graph).hand_in(Batch(batch.steps, np.array([4, 2])))


def test_batches_are_laid_out_in_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is page-locked for CUDA if CUDA's library is there, and ordinary memory if it is not."""
    staging = Staging(for_cuda=True)
    for rows in (10, 1000, 10):
        array = staging.array((rows, 7, 3), np.float32)
        array[...] = rows
        assert array.sum() == rows * rows * 21
    assert not staging.is_locked
    locked: list[int] = []

    def lock(memory: mmap.mmap) -> bool:
        locked.append(len(memory))
        return True

    monkeypatch.setattr("service.server.owner.blocks.lock_pages", lock)
    monkeypatch.setattr("service.server.owner.blocks.unlock_pages", lambda memory: locked.append(-len(memory)))
    staging.array((10**5, 7, 3), np.float32)
    assert staging.is_locked
    staging.array((10**6, 7, 3), np.float32)
    assert locked == [2**24, -(2**24), 2**27]
    assert not lock_pages(staging._map)
