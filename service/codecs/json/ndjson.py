"""NDJSON: one bare sequence a line in, one answer a line out, never more of it held than a window of lines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from service.codecs.json import exact
from service.codecs.json.plain import Bounds, count_lists, holds_too_much, parse_plain, require_bounds
from service.codecs.json.ragged import write_base64
from service.codecs.question import Format
from service.encoder.sequences import Features, InputSpec, Sequences, Steps, drop_padding, join
from service.encoder.tokenizer import Texts
from service.errors import LengthwiseError, LineTooLong
from service.settings import Limits

MEDIA_TYPE = "application/x-ndjson"

Found: TypeAlias = Steps | LengthwiseError  # what a line holds, or why it holds none
Read: TypeAlias = Found | str  # likewise, before texts are tokenised


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: the line's number, from 1, blank ones counted.
        row: the answer's number, from 0, blank lines not counted.
        text: the line without white space around it; None if the line was too long to be kept.
    """

    number: int
    row: int
    text: bytes | None


class LineSplitter:
    """Cuts a body that comes in pieces into lines.

    Attributes:
        number: the number of the line that is being read, from 1.
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
        line_bytes: the bytes that a line may have, which those without text are over.
    """
    texts = [line.text for line in lines if line.text is not None]
    bounds = Bounds.of([spec])
    is_plain = len(texts) == len(lines) and not any(holds_too_much(text, limits, bounds) for text in texts)
    if is_plain and (whole := _decode_plain(texts, spec)):
        try:
            whole.check(limits, spec.kind.vocabulary)
        except LengthwiseError:
            pass
        else:
            return list(whole.split())
    return [
        LineTooLong(line_bytes) if line.text is None else _decode_one(line.text, spec, limits, bounds) for line in lines
    ]


def _decode_plain(lines: Sequence[bytes], spec: InputSpec) -> Sequences | None:
    """Decode bare sequences, one a line, in one go; return None at any doubt about any of them."""
    parsed = parse_plain(b'{"sequences":[' + b",".join(lines) + b"]}")
    if parsed is None or parsed[0] or (sequences := parsed[1](spec.kind)) is None:
        return None
    # Each line is one sequence if it begins and ends as a list and opens as many lists as that sequence holds.
    has_lists = isinstance(spec.kind, Features)
    brackets = (1 + sequences.lengths).tolist() if has_lists else [1] * len(sequences.lengths)
    if [count_lists(line) for line in lines] != brackets:
        return None
    if not all(line.startswith(b"[") and line.endswith(b"]") for line in lines):
        return None
    return drop_padding(sequences)


def _decode_one(text: bytes, spec: InputSpec, limits: Limits, bounds: Bounds) -> Read:
    try:
        require_bounds(text, limits, bounds)
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
        join([steps], spec.kind).check(limits, spec.kind.vocabulary)
    except LengthwiseError as error:
        return error
    return steps


def write_embedding(index: int, row: npt.NDArray[np.float32], encoding_format: str) -> bytes:
    """Write a line with the embedding `(D,)` of a line."""
    embedding: Any = write_base64(row) if encoding_format == "base64" else row
    return _write({"index": index, "embedding": embedding})


def write_problem(problem: Mapping[str, Any], index: int | None = None) -> bytes:
    """Write a line with a problem: of one line, or, without index, of all that were not encoded any more."""
    return _write({"problem": problem} if index is None else {"index": index, "problem": problem})


def _write(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


# Its bodies have no end, so that they are neither read nor answered as a whole: `LineStream` does both.
FORMAT = Format(
    MEDIA_TYPE,
    body="One sequence a line, as in `sequences`, or a string if the model reads texts: a stream of any length, "
    "answered line by line while it is sent.",
    answer='To such a body: for each line `{"index": i, "embedding": [...]}`, or `{"index": i, "problem": {...}}` with '
    'the problem and its `line`. A last line `{"problem": {...}}` without `index` says why the rest, from its `line` '
    "on, was not encoded.",
)
