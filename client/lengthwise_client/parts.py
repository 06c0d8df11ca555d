"""A call's sequences, cut into requests that the service takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy.typing as npt

from lengthwise_client.formats import Format

Sequences: TypeAlias = Iterable[npt.ArrayLike]  # of (t_i, F) numbers, (t_i,) token ids, or texts

IN_FLIGHT = 4  # parts of one call at a time
SPECIAL_TOKENS = 2  # that a tokenizer may put around a text, whose tokens are thought no more than its bytes


@dataclass(frozen=True, slots=True)
class Served:
    """What `/info` says that a request depends on.

    Attributes:
        features: F, the numbers in a step; None if steps are token ids.
        dim: D, the numbers in an embedding.
        max_steps: the most steps in all sequences of a part together, an empty one counting as one.
        max_bytes: the most bytes in a body.
    """

    features: int | None
    dim: int
    max_steps: int
    max_bytes: int

    @classmethod
    def read(cls, info: dict[str, Any], name: str | None) -> Self:
        """Read it out of `/info`; the parts in flight together fit the queue, or a call would overload it alone.

        Args:
            info: the document as the service sent it.
            name: the model's name; None for the default. The service refuses a name it does not know.
        """
        name, settings = name or info["default_model"], info["settings"]
        models: list[dict[str, Any]] = info["models"] or [{"features": None, "dim": 0}]
        model = next((model for model in info["models"] if name in model["names"]), models[0])
        max_steps = min(settings["max_request_steps"], settings["max_queue_steps"] // IN_FLIGHT)
        return cls(model["features"], model["dim"], max_steps, settings["max_body_bytes"])


@dataclass(frozen=True, slots=True)
class Part:
    """The sequences of one request.

    Attributes:
        sequences: `n >= 1` of them.
        first: the index of the first of them among the caller's.
        size: the bytes that the body cannot exceed.
        format: the format of the request and its answer.
    """

    sequences: list[npt.ArrayLike]
    first: int
    size: int
    format: Format

    def write(self) -> bytes:
        """Write the request's body.

        Raises:
            TypeError: a sequence is not of the kind the model reads.
            ValueError: a sequence is not of the shape the model reads.
        """
        return self.format.write(self.sequences, self.first)


def cut(sequences: Sequences, served: Served, choose: Callable[[object], Format]) -> Iterator[Part]:
    """Cut sequences into parts within limits, as they come; one that alone is over them is a part of its own.

    Args:
        sequences: any number of them.
        served: what the service told, with its limits.
        choose: chooses the format of a part by its first sequence.

    Raises:
        TypeError: they are not sequences.
    """
    if isinstance(sequences, str | bytes):
        raise TypeError("sequences is one text: expected a list of texts")
    form: Format | None = None
    gathered: list[npt.ArrayLike] = []
    first = steps = size = 0
    for index, sequence in enumerate(sequences):
        length = _count_steps(sequence, index)
        if form is None or steps + length > served.max_steps or size + form.bound_bytes(sequence) > served.max_bytes:
            if form is not None:
                yield Part(gathered, first, size, form)
            form = choose(sequence)
            gathered, first, steps, size = [], index, 0, form.frame_bytes
        gathered.append(sequence)
        steps, size = steps + length, size + form.bound_bytes(sequence)
    if form is not None:
        yield Part(gathered, first, size, form)


def _count_steps(sequence: Any, index: int) -> int:
    """Return the most steps that a sequence can count for in the limit."""
    if isinstance(sequence, str):
        return len(sequence.encode()) + SPECIAL_TOKENS
    try:
        return max(1, len(sequence))
    except TypeError:
        found = type(sequence).__name__
        raise TypeError(f"sequences[{index}] is of type {found}: expected an array, a list or a text") from None
