"""JSON lines and texts; a shard is whole lines."""

import codecs
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from bulk.mistakes import BadInput
from bulk.plan import Shard
from bulk.rows import Rows
from bulk.sources import wanted as bounds
from bulk.sources.parsing import decode, finish, read_texts, show, take_sequence
from bulk.sources.stream import Stream
from bulk.sources.wanted import TEXT, Wanted
from bulk.stores import Place
from service.encoder.sequences import Steps
from service.errors import InvalidField, LengthwiseError

TYPES = {int: "int64", float: "double", bool: "bool", str: "string"}
EXACT = 2**53  # up to here a double holds every integer
TYPED_LINES = 1000  # of JSON lines, from which the types of their columns are told


class LineSource:
    """Lines of JSON or of text, plain or compressed; a shard is whole lines."""

    def __init__(self, path: Place, wanted: Wanted, *, is_text: bool) -> None:
        self._path = path
        self._wanted = wanted
        self.is_text = is_text
        self._stream = Stream(path)
        if is_text and (others := [name for name in wanted.columns or () if name != TEXT]):
            raise BadInput(path, f"there is no column {others[0]!r} to keep: it has {TEXT!r}")

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards that end with the line in which some 16 MB are full."""
        first = place = rows = 0
        last = b"\n"
        try:
            with self._stream.open() as stream:
                while piece := stream.read(bounds.SHARD_BYTES):
                    end = piece.rfind(b"\n")
                    if end < 0:
                        place, last = place + len(piece), piece[-1:]
                        continue
                    rows += piece.count(b"\n")
                    yield rows, first, place + end + 1
                    first, rows, place, last = place + end + 1, 0, place + len(piece), piece[-1:]
        except (OSError, pa.ArrowException) as error:
            raise BadInput(self._path, f"it cannot be read: {error}") from error
        if last != b"\n":
            yield rows + 1, first, place

    def read_lines(self, shard: Shard) -> list[bytes]:
        """Return lines as they are; those of a compressed file are best read in their order."""
        try:
            text = self._stream.read(shard.first, shard.last)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(self._path, f"it cannot be read: {error}", f"line {shard.start + 1}") from error
        text = text if shard.first else text.removeprefix(codecs.BOM_UTF8)
        return text.removesuffix(b"\n").split(b"\n") if shard.rows else []

    def read(self, shard: Shard) -> Rows:
        """Read the sequences of lines."""
        lines = self.read_lines(shard)
        if self.is_text:
            lines = [line.removesuffix(b"\r") for line in lines]
            shown = pa.array([line.decode("utf-8", "replace") for line in lines], pa.string())
            kept = pa.table({TEXT: shown}) if self._wanted.columns != () else None
            return read_texts([*map(decode, lines)], self._wanted.spec, self._wanted.limits, kept)
        return self._parse(lines)

    def _parse(self, lines: list[bytes]) -> Rows:
        wanted, spec = self._wanted, self._wanted.spec
        found: list[Steps | str | LengthwiseError] = []
        others: list[dict[str, Any]] = []
        for line in lines:
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                found.append(InvalidField("The line", f"not JSON ({error})", "one object a line"))
                others.append({})
                continue
            if not isinstance(row, dict):
                found.append(InvalidField("The line", "no object with this field", f"an object with {wanted.column!r}"))
                others.append({})
                continue
            kept = row if wanted.columns is None else {name: row.get(name) for name in wanted.columns}
            sequence = take_sequence(row, wanted)
            fault = find_depth(kept) or (None if wanted.types is None else find_misfit(kept, wanted.types))
            found.append(fault or sequence)
            others.append({} if fault else kept)
        return finish(found, spec, wanted.limits, others)

    def begin(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the first so many objects; what is none is left out."""
        text, lines = b"", 0
        try:
            with self._stream.open() as stream:
                while lines < count and (piece := stream.read(2**20)):
                    text += piece
                    lines += piece.count(b"\n")
        except (OSError, pa.ArrowException) as error:
            raise BadInput(self._path, f"it cannot be read: {error}") from error
        for line in text.removeprefix(codecs.BOM_UTF8).split(b"\n")[:count]:
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict):
                yield row


def infer_types(path: Place, wanted: Wanted) -> dict[str, str]:
    """Tell the types of what JSON lines hold besides sequences, from the first of them.

    Returns:
        An Arrow type by name; `json` for what is a list, an object, or differs from line to line.
    """
    source = LineSource(path, wanted, is_text=False)
    types: dict[str, str] = {} if wanted.columns is None else dict.fromkeys(wanted.columns, "")
    large: set[str] = set()  # that hold an integer which a double may not
    for row in source.begin(TYPED_LINES):
        taken = wanted.find(row)
        for name, value in row.items():
            if value is None or (name in taken if wanted.columns is None else name not in types):
                continue
            kind = name_type(value)
            known = types.get(name) or kind
            types[name] = known if known == kind else "double" if {known, kind} == {"int64", "double"} else "json"
            if type(value) is int and abs(value) > EXACT:
                large.add(name)
    return {name: "json" if kind == "double" and name in large else kind or "json" for name, kind in types.items()}


def name_type(value: object) -> str:
    """Return the type of a column that may hold a value; `json` if it takes an object, a list or a larger integer."""
    kind = TYPES.get(type(value), "json")
    return kind if type(value) is not int or -(2**63) <= value < 2**63 else "json"


def find_misfit(row: dict[str, Any], types: dict[str, str]) -> LengthwiseError | None:
    """Return what is wrong with what a line holds besides its sequence, if its column could not hold it."""
    for name, value in row.items():
        kind = types.get(name)
        if kind is None:
            expected = f"none of the first {TYPED_LINES} lines has it; name all that are kept with --columns"
            return InvalidField(name, "a field of later lines", expected)
        if value is None or kind == "json":
            continue
        if type(value) is int and kind == "double" and abs(value) <= EXACT:
            continue
        if name_type(value) != kind:
            return InvalidField(name, show(value), f"{kind}, as in the first {TYPED_LINES} lines")
    return None


def find_depth(row: dict[str, Any]) -> LengthwiseError | None:
    """Return what is wrong with what a line holds besides its sequence, if orjson, which read it, cannot write it."""
    for name, value in row.items():
        if isinstance(value, dict | list):
            try:
                orjson.dumps({name: value})
            except orjson.JSONEncodeError:  # it reads 1,024 lists and objects within each other, and writes 254
                return InvalidField(name, "nested too deep to be written", "fewer lists and objects within each other")
    return None
