"""NDJSON: one bare sequence a line in, one answer a line out, never more of it held than a window of lines."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from service.codecs.json import exact, ragged
from service.codecs.json.plain import holds_too_much, require_values
from service.encoder.sequences import InputSpec, Steps, join
from service.encoder.tokenizer import Texts
from service.errors import LengthwiseError, LineTooLong
from service.settings import Limits

MEDIA_TYPE = "application/x-ndjson"

Found: TypeAlias = Steps | LengthwiseError  # what a line holds, or why it holds none
Read: TypeAlias = Found | str  # likewise, before texts are tokenised


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: of the line, from 1, blank ones counted.
        row: of the answer, from 0, blank ones not counted.
        text: without white space around it; None where the line was too long to be kept.
    """

    number: int
    row: int
    text: bytes | None


class LineSplitter:
    """Cuts a body that comes in pieces into lines.

    Attributes:
        number: of the line that is being read, from 1.
    """

    def __init__(self, limit: int) -> None:
        """Start with the first line.

        Args:
            limit: bytes a line may have; what a longer one has is dropped as it comes.
        """
        self.number = 1
        self._limit = limit
        self._row = 0
        self._size = 0
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[Line]:
        """Return the lines that a piece of the body ends."""
        head, *tails = piece.split(b"\n")
        self._add(head)
        for tail in tails:
            yield from self.finish()
            self._add(tail)

    def finish(self) -> Iterator[Line]:
        """End the line that is being read, and return it unless it is blank."""
        text = None if self._size > self._limit else b"".join(self._pieces).strip()
        if text is None or text:
            yield Line(self.number, self._row, text)
            self._row += 1
        self.number += 1
        self._size = 0
        self._pieces.clear()

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._pieces.clear()
        elif part:
            self._pieces.append(part)


def decode(lines: Sequence[Line], spec: InputSpec, limits: Limits, line_bytes: int) -> list[Read]:
    """Decode lines and check what they hold: all in one go, and one by one at any doubt.

    Args:
        lines: n >= 1.
        spec: what the model reads.
        limits: what one line may hold, as if it were a request of its own.
        line_bytes: the bound that lines without text are over.
    """
    texts = [line.text for line in lines if line.text is not None]
    is_plain = len(texts) == len(lines) and not any(holds_too_much(text, limits, spec.step_values) for text in texts)
    if is_plain and (whole := ragged.decode_lines(texts, spec)):
        try:
            whole.check(limits, spec.vocabulary)
        except LengthwiseError:
            pass
        else:
            return list(whole.split())
    return [LineTooLong(line_bytes) if line.text is None else _decode_one(line.text, spec, limits) for line in lines]


def _decode_one(text: bytes, spec: InputSpec, limits: Limits) -> Read:
    try:
        require_values(text, limits, spec.step_values)
        read = exact.read_line(text, spec)
        if isinstance(read, str):
            Texts([read], field="sequences").check(limits)
            return read
    except LengthwiseError as error:
        return error
    return check_line(read, spec, limits)


def check_line(steps: Steps, spec: InputSpec, limits: Limits) -> Found:
    """Check what a line holds as if it were a request of its own; return it, or what is wrong with it."""
    try:
        join([steps], spec.features).check(limits, spec.vocabulary)
    except LengthwiseError as error:
        return error
    return steps


def write_embedding(index: int, row: npt.NDArray[np.float32], encoding_format: str) -> bytes:
    """Write a line with the embedding `(D,)` of a line."""
    embedding: Any = row
    if encoding_format == "base64":
        embedding = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return _write({"index": index, "embedding": embedding})


def write_problem(problem: Mapping[str, Any], index: int | None = None) -> bytes:
    """Write a line with a problem: of one line, or, without index, of all that were not encoded any more."""
    return _write({"problem": problem} if index is None else {"index": index, "problem": problem})


def _write(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
