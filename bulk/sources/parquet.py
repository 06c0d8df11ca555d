"""Parquet: a column of lists or texts; a shard is row groups, or a part of one that is large.

A part is decoded from the beginning of its row group, once for all parts in turn.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk.mistakes import BadInput
from bulk.plan import Shard
from bulk.rows import PLACE, Rows, check, split
from bulk.sources import wanted as bounds
from bulk.sources.parsing import read_texts
from bulk.sources.wanted import Wanted
from bulk.stores import Place
from service.encoder.sequences import Steps
from service.errors import FeatureMismatch, InvalidField, LengthwiseError

MOST_TIMES = 1.5  # as large as a shard should be: what is larger is worth parts
BUFFER_BYTES = 2**20  # of a column, read at once: else a row group would be read whole, however many parts it has
STORE_BUFFER_BYTES = 2**23  # the same of a store, each of whose answers takes a while


class ParquetSource:
    """A Parquet file; a shard is row groups, or a part of one."""

    def __init__(self, path: Place, wanted: Wanted, partitions: Mapping[str, str | None]) -> None:
        self._path = path
        self._wanted = wanted
        try:
            size = BUFFER_BYTES if path.is_local else STORE_BUFFER_BYTES
            self._file = pq.ParquetFile(path.open(), buffer_size=size, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(path, f"it cannot be read as Parquet: {error}") from error
        names = [*self._file.schema_arrow.names, *partitions]
        self._steps = wanted.find(names) or (wanted.column,)
        kept = [name for name in names if name not in self._steps] if wanted.columns is None else [*wanted.columns]
        for name in (*self._steps, *kept):
            if name not in names:
                raise BadInput(path, f"there is no column {name!r}: it has {', '.join(map(repr, names))}")
        self._kept = kept
        self._partitions = {name: value for name, value in partitions.items() if name in kept}
        self._columns = [name for name in kept if name not in partitions]
        self._parts: Iterator[pa.RecordBatch] = iter(())  # of a row group that is too large for a shard
        self._next = -1, -1  # the row group, and the row in it that comes next

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards: as many row groups as take some 16 MB, or equal parts of one that takes much more."""
        metadata = self._file.metadata
        first = rows = size = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            part = self._cut_group(number)
            if rows and (size + group.total_byte_size > bounds.SHARD_BYTES or rows + part > bounds.SHARD_ROWS):
                yield rows, first, number
                first, rows, size = number, 0, 0
            if part < group.num_rows:
                yield from (
                    (min(part, group.num_rows - start), number, number + 1) for start in range(0, group.num_rows, part)
                )
                first = number + 1
                continue
            rows += group.num_rows
            size += group.total_byte_size
        if rows:
            yield rows, first, metadata.num_row_groups

    def _cut_group(self, number: int) -> int:
        """Return how many rows of a row group are a shard: all, unless they are much more than one should be."""
        group = self._file.metadata.row_group(number)
        rows: int = group.num_rows
        times = max(group.total_byte_size / bounds.SHARD_BYTES, rows / bounds.SHARD_ROWS)
        return rows if times <= MOST_TIMES else math.ceil(rows / math.ceil(times))

    def read(self, shard: Shard) -> Rows:
        """Read row groups, or a part of one; parts are best read in their order."""
        try:
            table = self._read_table(shard)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(self._path, f"it cannot be read: {error}", f"rows {shard.start} and on") from error
        for name, value in self._partitions.items():
            table = table.append_column(name, pa.array([value] * len(table), pa.string()))
        columns = table.select(self._kept)
        if self._steps == self._wanted.features:
            return self._join(table, columns)
        return self._split(table.column(self._steps[0]).combine_chunks(), columns)

    def _read_table(self, shard: Shard) -> pa.Table:
        columns = [*dict.fromkeys([*self._steps, *self._columns])]
        metadata = self._file.metadata
        if shard.last - shard.first > 1 or shard.rows == metadata.row_group(shard.first).num_rows:
            return self._file.read_row_groups(range(shard.first, shard.last), columns=columns)
        offset = shard.start - sum(metadata.row_group(number).num_rows for number in range(shard.first))
        if self._next != (shard.first, offset):
            size = find_step(offset, shard.rows)
            self._parts = self._file.iter_batches(size, [shard.first], columns)
            for _ in range(offset // size):
                next(self._parts)
        self._next = shard.first, offset + shard.rows
        return pa.Table.from_batches([next(self._parts)])

    def _split(self, column: Any, columns: pa.Table) -> Rows:
        spec, limits = self._wanted.spec, self._wanted.limits
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return read_texts(column.to_pylist(), spec, limits, columns)
        ends, steps = self._flatten(column, self._steps[0], column.type)
        widths = None
        if not pa.types.is_primitive(steps.type):
            value_ends, steps = self._flatten(steps, self._steps[0], column.type)
            widths = np.diff(value_ends)
        if not (pa.types.is_integer(steps.type) or pa.types.is_floating(steps.type)):
            raise BadInput(self._path, f"the steps hold {steps.type}, which are not numbers")
        values = steps.to_numpy(zero_copy_only=False)  # null becomes NaN, which is refused
        if (widths is None) != (spec.kind.features is None):
            expected = (
                "lists of token ids"
                if spec.kind.features is None
                else f"lists of steps of {spec.kind.features} numbers"
            )
            raise BadInput(self._path, f"{self._steps[0]!r} holds {column.type}, and the model reads {expected}")
        found: list[Steps | LengthwiseError]
        if widths is None:
            if not pa.types.is_integer(steps.type):
                raise BadInput(self._path, f"{self._steps[0]!r} holds {column.type}, and token ids are integers")
            whole = values.astype(np.int64, copy=False)
            found = [*split(whole, ends)]
            return check(found, spec, limits, columns, whole)
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
            numbers = values.astype(np.float32, copy=False)
        features = spec.kind.features or 0
        if (widths == features).all():
            whole = numbers.reshape(-1, features)
            found = [*split(whole, ends)]
            return check(found, spec, limits, columns, whole)
        found = []
        for start, stop in pairwise(ends):
            wrong = np.flatnonzero(widths[start:stop] != features)
            if len(wrong):
                step = int(wrong[0])
                found.append(FeatureMismatch(f"{PLACE}[{step}]", int(widths[start + step]), features))
            else:
                found.append(numbers[value_ends[start] : value_ends[stop]].reshape(-1, features))
        return check(found, spec, limits, columns)

    def _join(self, table: pa.Table, columns: pa.Table) -> Rows:
        """Put the lists of several columns, one a feature, side by side."""
        spec, limits = self._wanted.spec, self._wanted.limits
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
        for name in self._steps:
            lists = table.column(name).combine_chunks()
            ends, values = self._flatten(lists, name, lists.type)
            if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
                raise BadInput(self._path, f"{name!r} holds {lists.type}, not lists of one feature's numbers")
            with np.errstate(over="ignore"):
                parts.append((ends, values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)))
        lengths = np.array([np.diff(ends) for ends, _ in parts])
        if (lengths == lengths[0]).all():
            whole = np.stack([values for _, values in parts], axis=1)
            return check([*split(whole, parts[0][0])], spec, limits, columns, whole)
        found: list[Steps | LengthwiseError] = []
        for row, (first, *others) in enumerate(lengths.T.tolist()):
            if wrong := [place for place, length in enumerate(others, 1) if length != first]:
                expected = f"as many as {self._steps[0]!r} holds, {first}"
                found.append(InvalidField(self._steps[wrong[0]], f"{lengths[wrong[0], row]} numbers", expected))
            else:
                found.append(np.stack([values[ends[row] : ends[row + 1]] for ends, values in parts], axis=1))
        return check(found, spec, limits, columns)

    def _flatten(self, lists: Any, name: str, kind: Any) -> tuple[npt.NDArray[np.int64], Any]:
        """Return where each of n lists begins and the last one ends, `(n + 1,)`, and what they hold, end to end.

        `kind` is the type of the column, for the message if they are not lists.
        """
        if not isinstance(lists, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            raise BadInput(self._path, f"{name!r} holds {kind}, neither lists of numbers nor texts")
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lists.flatten()


def find_step(offset: int, rows: int) -> int:
    """Return the smallest number of rows, at least those after `offset`, of which `offset` is a multiple.

    All parts of a row group are of one size but the last, which may be smaller, so there is one.
    """
    steps = offset // rows
    while steps and offset % steps:
        steps -= 1
    return offset // steps if steps else rows
