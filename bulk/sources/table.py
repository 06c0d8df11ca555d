"""CSV: a text a line, or a step a line; then the lines of a sequence stand together.

The columns of steps are `id`, `order`, and one for each feature, or `token`. The artifact says which are features if
its training file did; else they are all others but `label`.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ReadOptions, read_csv

from bulk.mistakes import BadInput
from bulk.plan import Shard
from bulk.rows import Rows, check, split
from bulk.sources import wanted as bounds
from bulk.sources.parsing import read_texts
from bulk.sources.stream import Stream
from bulk.sources.wanted import Wanted
from bulk.stores import Place
from service.encoder.sequences import Steps
from service.errors import InvalidField, LengthwiseError

LABEL, TOKEN = "label", "token"


class TableSource:
    """A CSV, plain or compressed; a shard is the lines of whole sequences."""

    def __init__(self, path: Place, wanted: Wanted) -> None:
        self._path = path
        self._wanted = wanted
        self._stream = Stream(path)
        try:
            with self._stream.open() as file:
                line, _, _ = file.read(2**20).partition(b"\n")
            self._begins = len(line) + 1
            self._names: list[str] = next(csv.reader([line.decode("utf-8-sig", "replace").strip()]), [])
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise BadInput(path, f"it cannot be read: {error}") from error
        texts = [name for name in (wanted.column, bounds.TEXT) if name in self._names]
        self._text = texts[0] if texts and wanted.order not in self._names else None
        special = {wanted.id, wanted.order, LABEL}
        self._features = [*wanted.features] or [name for name in self._names if name not in special]
        steps = {wanted.order, *self._features}
        others = [name for name in self._names if (name not in steps if self._text is None else name != self._text)]
        kept = others if self._text or wanted.features else [name for name in others if name in special]
        self._columns = kept if wanted.columns is None else [*wanted.columns]
        self._require([self._text] if self._text else [wanted.id, wanted.order], self._columns, others)

    def _require(self, needed: list[str], kept: list[str], others: list[str]) -> None:
        held = ", ".join(map(repr, self._names)) or "nothing"
        if missing := [name for name in needed if name not in self._names]:
            role = "id" if missing[0] == self._wanted.id else "order"
            raise BadInput(
                self._path, f"there is no column {missing[0]!r}: it has {held}; --{role}-column names another"
            )
        counts = Counter(self._names)
        read = (*needed, *(() if self._text else self._features), *kept)
        if twice := [name for name in read if counts[name] > 1]:
            raise BadInput(self._path, f"{counts[twice[0]]} columns have the name {twice[0]!r}: give each its own")
        if missing := [name for name in kept if name not in (*others, self._text)]:
            if missing[0] in self._names:
                raise BadInput(self._path, f"{missing[0]!r} has a value for each step, and cannot be kept in one row")
            raise BadInput(self._path, f"there is no column {missing[0]!r} to keep: it has {held}")
        if self._text is None and (nameless := [name for name in self._features if not name.strip()]):
            reason = "has no name: pandas writes its index so, which is not a feature; write with index=False"
            raise BadInput(self._path, f"column {self._names.index(nameless[0]) + 1} {reason}")
        absent = [name for name in self._wanted.features if name not in self._names]
        if self._text is None and absent:
            raise BadInput(self._path, f"there is no column {absent[0]!r}, which the model reads: it has {held}")
        features = self._wanted.spec.kind.features
        fits = self._features == [TOKEN] if features is None else len(self._features) == features
        if self._text is None and not fits:
            expected = f"one column {TOKEN!r}" if features is None else f"{features} columns"
            raise BadInput(self._path, f"it holds {held}, and the model reads {expected} beside id, order and label")

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards that end with the sequence before which some 16 MB are full."""
        place, carry, is_over = self._begins, b"", False
        seen: set[int] = set()
        try:
            with self._stream.open() as file:
                file.read(self._begins)
                while not is_over:
                    piece = file.read(bounds.SHARD_BYTES)
                    is_over = not piece
                    text = carry + piece
                    whole = text if is_over else text[: text.rfind(b"\n") + 1]
                    starts = self._find_starts(whole, seen, is_over=is_over)
                    rows, end = (len(starts), len(text)) if is_over else (len(starts) - 1, starts[-1] if starts else 0)
                    if rows > 0:
                        yield rows, place, place + end
                        carry, place = text[end:], place + end
                    else:
                        carry = text
        except (OSError, pa.ArrowException) as error:
            raise BadInput(self._path, f"it cannot be read: {error}") from error

    def _find_starts(self, text: bytes, seen: set[int], *, is_over: bool) -> list[int]:
        """Return at which byte each sequence begins; the last of a piece may go on in the next one."""
        if not text:
            return []
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        lines = np.append(0, ends if ends.size and ends[-1] < len(text) else ends[:-1])
        name = self._text or self._wanted.id
        column = self._parse(text, [name], {})[name]
        if len(column) != len(lines):
            raise BadInput(self._path, "it has empty lines, or line ends within quotes, and is read line by line")
        if self._text:
            return [int(byte) for byte in lines]
        runs = pc.run_end_encode(column.combine_chunks())
        names = runs.values.to_pylist()
        for name in names if is_over else names[:-1]:
            if hash(name) in seen:
                reason = "the lines of a sequence must stand together, so sort them by id"
                raise BadInput(self._path, f"sequence {name!r} comes back after another: {reason}")
            seen.add(hash(name))
        firsts = np.append(0, runs.run_ends.to_numpy()[:-1])
        return [int(byte) for byte in lines[firsts]]

    def read(self, shard: Shard) -> Rows:
        """Read lines; those of a compressed file are best read in their order."""
        try:
            if not shard.rows:
                return Rows([], {}, pa.table({name: pa.array([], pa.string()) for name in self._columns}))
            text = self._stream.read(shard.first, shard.last)
            if self._text:
                table = self._parse(text, [*dict.fromkeys([self._text, *self._columns])], {})
                kept = table.select(self._columns)
                return read_texts(table[self._text].to_pylist(), self._wanted.spec, self._wanted.limits, kept)
            columns = [*dict.fromkeys([self._wanted.id, self._wanted.order, *self._features, *self._columns])]
            try:
                return self._read_steps(text, columns, [])
            except pa.ArrowInvalid:  # some cell is no number
                pass
            try:
                return self._read_steps(text, columns, [self._wanted.order])  # times are not
            except pa.ArrowInvalid:
                return self._read_steps(text, columns, [self._wanted.order, *self._features])
        except (OSError, pa.ArrowException) as error:
            raise BadInput(self._path, f"it cannot be read: {error}", f"sequence {shard.start + 1}") from error

    def _read_steps(self, text: bytes, columns: list[str], one_by_one: list[str]) -> Rows:
        """Read steps; the columns that are read one by one tell which of their cells is wrong."""
        numbers = {name: pa.float64() for name in (self._wanted.order, *self._features) if name not in one_by_one}
        table = self._parse(text, columns, numbers)
        faults: dict[int, LengthwiseError] = {}
        for name in one_by_one:
            table = table.set_column(columns.index(name), name, self._convert(table, name, faults))
        return self._group(table, faults)

    def _convert(self, table: Any, name: str, faults: dict[int, LengthwiseError]) -> Any:
        """Return a column of texts as numbers, or of times as seconds; another cell is a fault of its line."""
        is_order = name == self._wanted.order
        numbers = np.full(len(table), np.nan)
        for line, cell in enumerate(table[name].to_pylist()):
            try:
                numbers[line] = read_order(cell) if is_order else float(cell)
            except ValueError:
                expected = "a number or a time (ISO 8601)" if is_order else "a number"
                faults.setdefault(line, InvalidField(name, repr(cell)[:40], expected))
        return pa.array(numbers)

    def _group(self, table: Any, faults: dict[int, LengthwiseError]) -> Rows:
        """Return the steps of each sequence, in their order, as one row; `faults` are by line."""
        runs = pc.run_end_encode(table[self._wanted.id].combine_chunks())
        ends = np.append(0, runs.run_ends.to_numpy().astype(np.int64))
        kept = table.select(self._columns).take(ends[:-1])
        owners = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        errors = {int(owners[line]): fault for line, fault in sorted(faults.items(), reverse=True)}
        ordered, expected = self._wanted.order, "a number for each step"
        order = table[ordered].to_numpy()
        for step in np.flatnonzero(~np.isfinite(order)).tolist():
            errors.setdefault(int(owners[step]), InvalidField(ordered, "not finite", expected))
        is_same = np.diff(owners) == 0
        if (is_same & (np.diff(order) <= 0)).any():
            by_order = np.lexsort((order, owners))
            table, order = table.take(by_order), order[by_order]
            for step in np.flatnonzero(is_same & (np.diff(order) == 0)).tolist():
                errors.setdefault(int(owners[step]), InvalidField(ordered, "the same for two of its steps", expected))
        whole, wrong = self._stack(table)
        for step in wrong:
            errors.setdefault(int(owners[step]), InvalidField(TOKEN, "not an integer", "a token id"))
        sequences: list[Steps | LengthwiseError] = [*split(whole, ends)]
        for row, error in errors.items():
            sequences[row] = error
        return check(sequences, self._wanted.spec, self._wanted.limits, kept, None if errors else [whole])

    def _stack(self, table: Any) -> tuple[npt.NDArray[Any], list[int]]:
        """Return all steps, end to end, and those whose token id is no integer."""
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = np.stack([table[name].to_numpy() for name in self._features], axis=1)
            if self._wanted.spec.kind.features is not None:
                return numbers.astype(np.float32), []
            ids = numbers[:, 0]
            return ids.astype(np.int64), np.flatnonzero(ids != np.trunc(ids)).tolist()

    def _parse(self, text: bytes, columns: list[str], types: dict[str, Any]) -> Any:
        """Parse lines; what has no type is a text."""
        return read_csv(
            pa.BufferReader(text),
            ReadOptions(column_names=self._names, block_size=max(1, len(text)) + 1, use_threads=False),
            convert_options=ConvertOptions(
                column_types={name: types.get(name, pa.string()) for name in columns}, include_columns=columns
            ),
        )


def read_order(text: str) -> float:
    """Return what steps are ordered by: a number, or a time in seconds since 1970. A time without a zone is UTC.

    Raises:
        ValueError: it is neither.
    """
    try:
        return float(text)
    except ValueError:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
