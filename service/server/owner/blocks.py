"""Rows that channels hand in, laid out as one batch, and what a run gave for them handed back."""

import ctypes
import mmap
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from service.encoder.region import (
    ANSWERED,
    DONE,
    FAILED,
    OUTPUTS,
    SHAPE,
    Region,
    place_inputs,
    place_outputs,
)
from service.encoder.runtime import DEADLINES, Feed
from service.server.owner.graphs import Graph

STAGED_BYTES = 2**20  # a block alone is copied to page-locked memory if it is larger: the device then reads it faster
MOST_WORDS = 500  # bytes of what went wrong
PORTABLE = 1  # cudaHostRegister: for every context


@dataclass(slots=True, eq=False)
class Channel:
    """A way by which one process asks for one run at a time.

    Attributes:
        socket: for messages.
        graph: what it asks for; None until it has said so.
        region: where its arrays lie; None until it sent one.
        is_busy: whether a run it asked for is not answered yet.
    """

    socket: socket.socket
    graph: Graph | None = None
    region: Region | None = None
    is_busy: bool = False


@dataclass(slots=True, eq=False)
class Block:
    """Padded rows that wait to run.

    Attributes:
        channel: what handed them in.
        graph: what runs them.
        number: what the channel knows the run by.
        rows: how many there are.
        steps: what they are padded to.
        outputs: what is wanted.
        due: when they should have run.
        inputs: the arrays in the channel's region, and the rows' deadlines if they have any.
        kept: which rows run, if some are too late; None for all.
    """

    channel: Channel
    graph: Graph
    number: int
    rows: int
    steps: int
    outputs: tuple[str, ...]
    due: float
    inputs: Feed
    kept: npt.NDArray[np.intp] | None = None
    company: object = field(init=False)

    def __post_init__(self) -> None:
        self.company = self.graph, self.outputs

    @classmethod
    def of(cls, channel: Channel, graph: Graph, asked: tuple[int, int, int, int, int], due: float) -> "Block":
        """Read what a channel asks for.

        Raises:
            ValueError: it cannot be meant.
        """
        number, rows, steps, wanted, dated = asked
        outputs = tuple(name for place, name in enumerate(OUTPUTS) if wanted >> place & 1)
        if channel.region is None or not rows or not steps or not outputs or not set(outputs) <= set(graph.outputs):
            raise ValueError(f"{rows} rows of {steps} steps for {outputs} are not a run")
        places, _ = place_inputs(graph.runtime.inputs, rows, steps, dated=bool(dated))
        inputs: Feed = {place.name: channel.region.array(place) for place in places}
        lengths: npt.NDArray[Any] = inputs["lengths"].copy()  # what is checked is what runs
        if lengths.min() < 0 or lengths.max() > steps:
            raise ValueError(f"lengths are not within 0 and {steps}")
        inputs["lengths"] = lengths
        return cls(channel, graph, number, rows, steps, outputs, due, inputs)

    def drop_late(self, now: float) -> int:
        """Leave out the rows whose deadline has passed, and return how many are left."""
        deadlines: npt.NDArray[Any] | None = self.inputs.get(DEADLINES)
        if deadlines is None:
            return self.rows
        kept = np.flatnonzero(deadlines > now)
        self.kept = None if len(kept) == self.rows else kept
        return len(kept)

    def take(self, name: str) -> npt.NDArray[Any]:
        """Return an input's rows that run."""
        array: npt.NDArray[Any] = self.inputs[name]
        return array if self.kept is None else array[self.kept]

    def answer(self, found: Sequence[npt.NDArray[np.float32]]) -> None:
        """Hand back what a run gave for the rows that ran; the others get zeros."""
        shapes = self.graph.shapes(self.outputs, self.rows, self.steps)
        places, size = place_outputs(shapes)
        region, fds = self.channel.region, []
        if region is None or region.size < size:
            self.channel.region = region = Region.of(size)
            fds = [region.fd]
        for place, rows in zip(places, found, strict=True):
            target = region.array(place)
            ran = self.rows if self.kept is None else len(self.kept)
            if rows.shape != (ran, *place.shape[1:]):
                raise ValueError(f"{ran} sequences gave an output of shape {rows.shape}")
            if self.kept is None:
                target[...] = rows
            else:
                target[...] = 0
                target[self.kept] = rows
        told = b"".join(SHAPE.pack(*shape, *[0] * (4 - len(shape))) for shape in shapes)
        self._send(DONE, told, fds)

    def fail(self, error: Exception) -> None:
        """Say why there is nothing to hand back."""
        reason = f"{type(error).__name__}: {error}"
        self._send(FAILED, reason.encode()[:MOST_WORDS].decode(errors="ignore").encode(), [])

    def _send(self, state: int, told: bytes, fds: list[int]) -> None:
        self.inputs = {}
        self.channel.is_busy = False
        with suppress(OSError):  # it has ended, and nobody waits
            socket.send_fds(self.channel.socket, [ANSWERED.pack(self.number, state) + told], fds)


class Staging:
    """Memory in which batches are laid out one after another.

    Attributes:
        is_locked: whether it is page-locked, as it is for CUDA, if that can be.
    """

    def __init__(self, *, for_cuda: bool) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._for_cuda = for_cuda
        self.is_locked = False

    def array(self, shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array that is good until the next one is asked for."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if size > len(self._map):
            if self.is_locked:
                unlock_pages(self._map)
            self._map = mmap.mmap(-1, 1 << (size - 1).bit_length())
            self.is_locked = self._for_cuda and lock_pages(self._map)
        return np.ndarray(shape, kind, self._map)


def lay_out(blocks: Sequence[Block], staging: Staging) -> Feed:
    """Lay blocks out as one batch, padded to the longest.

    Args:
        blocks: of the same company, each with rows that run, shortest first.
        staging: where there is room.
    """
    graph, steps = blocks[0].graph, blocks[-1].steps
    names = [tensor.name for tensor in graph.runtime.inputs]
    if len(blocks) == 1 and not (staging.is_locked and blocks[0].inputs["sequences"].nbytes > STAGED_BYTES):
        return {name: blocks[0].take(name) for name in names}
    feed: Feed = {name: np.concatenate([block.take(name) for block in blocks]) for name in names if name != "sequences"}
    first = blocks[0].inputs["sequences"]
    padded = staging.array((len(feed["lengths"]), steps, *first.shape[2:]), first.dtype)
    begin = 0
    for block in blocks:
        rows = block.take("sequences")
        end = begin + len(rows)
        padded[begin:end, : block.steps] = rows
        padded[begin:end, block.steps :] = 0
        begin = end
    return feed | {"sequences": padded}


def hand_back(blocks: Sequence[Block], found: Sequence[npt.NDArray[np.float32]]) -> None:
    """Hand each block back what a run over all of them gave."""
    begin = 0
    for block in blocks:
        end = begin + (block.rows if block.kept is None else len(block.kept))
        try:
            block.answer(
                [
                    array[begin:end, : block.steps] if name == "steps" else array[begin:end]
                    for name, array in zip(block.outputs, found, strict=True)
                ]
            )
        except Exception as error:  # noqa: BLE001 - no room, or a graph whose outputs are not batches
            block.fail(error)
        begin = end


@cache
def _cuda_runtime() -> ctypes.CDLL | None:
    """Return CUDA's own library, which ONNX Runtime has loaded if it runs on a GPU."""
    for name in ("libcudart.so.13", "libcudart.so.12"):
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def lock_pages(memory: mmap.mmap) -> bool:
    """Page-lock memory, so that a GPU reads it by itself and not by way of a copy.

    Returns:
        Whether it could be.
    """
    if (cuda := _cuda_runtime()) is None:
        return False
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return bool(cuda.cudaHostRegister(address, ctypes.c_size_t(len(memory)), PORTABLE) == 0)


def unlock_pages(memory: mmap.mmap) -> None:
    """Undo `lock_pages`."""
    if (cuda := _cuda_runtime()) is not None:
        cuda.cudaHostUnregister(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))))
