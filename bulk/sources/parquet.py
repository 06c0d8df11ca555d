"""Parquet: a column of lists or texts; a shard is row groups, or a part of one that is large.

A part is decoded from the beginning of its row group, once for all parts in turn. All is decoded in small batches: what
decoding needs beside the numbers is three times as large as they are, and would lie in memory for a whole shard.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
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
from bulk.sources.parsing import decode, read_texts
from bulk.sources.wanted import Wanted
from bulk.stores import Place
from service.encoder.sequences import Steps
from service.errors import FeatureMismatch, InvalidField, LengthwiseError

MOST_TIMES = 1.5  # as large as a shard should be: what is larger is worth parts
BUFFER_BYTES = 2**20  # of a column, read at once: else a row group would be read whole, however many parts it has
STORE_BUFFER_BYTES = 2**23  # the same of a store, each of whose answers takes a while
BATCH_BYTES = 2**21  # that are decoded at once
WIDTHS = {"FLOAT": 4, "DOUBLE": 8, "INT32": 4, "INT64": 8}  # of what may lie in the file as a few bits
TEXTS = pa.string(), pa.large_string(), pa.string_view()
LISTS = pa.ListType, pa.LargeListType, pa.FixedSizeListType
NO_TOKEN = -1  # in place of null, which no model knows


class ParquetSource:
    """A Parquet file; a shard is row groups, or a part of one."""

    def __init__(self, path: Place, wanted: Wanted, partitions: Mapping[str, str | None]) -> None:
        self._path = path
        self._wanted = wanted
        try:
            size = BUFFER_BYTES if path.is_local else STORE_BUFFER_BYTES
            self._file = pq.ParquetFile(
                path.open(), buffer_size=size, pre_buffer=False, page_checksum_verification=True
            )
        except (pa.ArrowException, OSError) as error:
            raise BadInput(path, f"it cannot be read as Parquet: {error}") from error
        own = self._file.schema_arrow.names
        names = [*own, *partitions]
        self._steps = wanted.find(names) or (wanted.column,)
        kept = [name for name in names if name not in self._steps] if wanted.columns is None else [*wanted.columns]
        for name in (*self._steps, *kept):
            if name not in (own if name in self._steps else names):
                raise BadInput(path, f"there is no column {name!r}: it has {', '.join(map(repr, names))}")
            if (count := own.count(name)) > 1:
                raise BadInput(path, f"{count} columns have the name {name!r}: give each its own, or choose --columns")
        self._kept = kept
        self._partitions = {name: value for name, value in partitions.items() if name in kept}
        self._columns = [name for name in kept if name not in partitions]
        metadata = self._file.metadata
        self._group_rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = [*accumulate(self._group_rows, initial=0)]
        paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        self._leaf = next(n for n, path in enumerate(paths) if f"{path}.".startswith(f"{self._steps[0]}."))
        self._batches: Iterator[pa.RecordBatch] = iter(())  # of the row groups in hand
        self._rest: pa.RecordBatch | None = None  # of the last batch, what was not taken
        self._next = -1, -1  # the first of these row groups, and the row of the file that comes next

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards: as many row groups as take some 16 MB, or equal parts of one that takes much more."""
        first = rows = size = 0
        for number, group_rows in enumerate(self._group_rows):
            group_bytes = self._measure(number)
            part = cut_group(group_rows, group_bytes)
            if rows and (size + group_bytes > bounds.SHARD_BYTES or rows + part > bounds.SHARD_ROWS):
                yield rows, first, number
                first, rows, size = number, 0, 0
            if part < group_rows:
                yield from ((min(part, group_rows - start), number, number + 1) for start in range(0, group_rows, part))
                first = number + 1
                continue
            rows += group_rows
            size += group_bytes
        if rows:
            yield rows, first, len(self._group_rows)

    def _measure(self, number: int) -> int:
        """Return the bytes of a row group in memory, about."""
        group = self._file.metadata.row_group(number)
        numbers = group.column(self._leaf)
        size: int = max(
            group.total_byte_size, numbers.num_values * WIDTHS.get(numbers.physical_type, 0) * len(self._steps)
        )
        return size

    def read(self, shard: Shard) -> Rows:
        """Read row groups, or a part of one; parts are best read in their order."""
        try:
            table = self._read_table(shard)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(self._path, f"it cannot be read: {error}", f"rows {shard.start} and on") from error
        columns = table.select(self._columns).combine_chunks()  # so that how it was read changes no byte of the output
        for name, value in self._partitions.items():
            columns = columns.append_column(name, pa.array([value] * len(table), pa.string()))
        columns = columns.select(self._kept)
        if not shard.rows:
            return Rows([], {}, columns)  # the type of the sequences may be anything: pandas writes null
        if self._steps == self._wanted.features:
            return self._join(table, columns)
        return self._split(table.column(self._steps[0]), columns)

    def _read_table(self, shard: Shard) -> pa.Table:
        if not shard.rows:
            return self._file.schema_arrow.empty_table()
        group, row = self._next
        if group != shard.first or row > shard.start:
            row = self._starts[shard.first]
            groups = range(shard.first, shard.last)
            size = sum(map(self._measure, groups)) // (self._starts[shard.last] - row)  # of a row
            columns = [*dict.fromkeys([*self._steps, *self._columns])]
            # Arrow's own threads would each take memory anew, which costs more than they help beside runs.
            self._batches = self._file.iter_batches(BATCH_BYTES // (size + 1) + 1, groups, columns, use_threads=False)
            self._rest = None
        self._next = -1, -1  # should this fail
        for _ in self._take(shard.start - row):
            pass
        table = pa.Table.from_batches(self._take(shard.rows))
        self._next = shard.first, shard.start + shard.rows
        return table

    def _take(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the next rows of the open row group, as many as are asked for; a batch of Arrow may hold fewer."""
        while rows:
            batch = self._rest or next(self._batches, None)
            if batch is None:
                raise OSError("a row group ends too early")
            part = batch.slice(0, rows)
            rows -= len(part)
            self._rest = batch.slice(len(part)) if len(part) < len(batch) else None
            yield part

    def _split(self, column: pa.ChunkedArray, columns: pa.Table) -> Rows:
        spec, limits, kind = self._wanted.spec, self._wanted.limits, column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if kind in TEXTS:
            return read_texts(list_texts(column), spec, limits, columns)
        depth, leaf = 0, kind
        while isinstance(leaf, LISTS):
            depth, leaf = depth + 1, leaf.value_type
        if not (depth and pa.types.is_primitive(leaf)):
            raise BadInput(self._path, f"{self._steps[0]!r} holds {kind}, neither lists of numbers nor texts")
        if not (pa.types.is_integer(leaf) or pa.types.is_floating(leaf)):
            raise BadInput(self._path, f"the steps hold {leaf}, which are not numbers")
        features = spec.kind.features
        if depth != (1 if features is None else 2):
            expected = "lists of token ids" if features is None else f"lists of steps of {features} numbers"
            raise BadInput(self._path, f"{self._steps[0]!r} holds {kind}, and the model reads {expected}")
        if features is None and not pa.types.is_integer(leaf):
            raise BadInput(self._path, f"{self._steps[0]!r} holds {kind}, and token ids are integers")
        found: list[Steps | LengthwiseError] = []
        wholes: list[npt.NDArray[Any]] | None = []
        for lists in column.chunks:
            some, whole = split_ids(lists) if features is None else split_steps(lists, features)
            found += some
            wholes = None if wholes is None or whole is None else [*wholes, whole]
        return check(found, spec, limits, columns, None if mark_null(column, found) else wholes)

    def _join(self, table: pa.Table, columns: pa.Table) -> Rows:
        """Put the lists of several columns, one a feature, side by side."""
        spec, limits = self._wanted.spec, self._wanted.limits
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
        for name in self._steps:
            lists = table.column(name).combine_chunks()
            if not isinstance(lists.type, LISTS):
                raise BadInput(self._path, f"{name!r} holds {lists.type}, neither lists of numbers nor texts")
            ends, values = flatten(lists)
            if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
                raise BadInput(self._path, f"{name!r} holds {lists.type}, not lists of one feature's numbers")
            parts.append((ends, to_numpy(values, pa.float32(), math.nan)))
        lengths = np.array([np.diff(ends) for ends, _ in parts])
        found: list[Steps | LengthwiseError] = []
        wholes = None
        if (lengths == lengths[0]).all():
            wholes = [np.stack([values for _, values in parts], axis=1)]
            found += split(wholes[0], parts[0][0])
        else:
            for row, (first, *others) in enumerate(lengths.T.tolist()):
                if wrong := [place for place, length in enumerate(others, 1) if length != first]:
                    expected = f"as many as {self._steps[0]!r} holds, {first}"
                    found.append(InvalidField(self._steps[wrong[0]], f"{lengths[wrong[0], row]} numbers", expected))
                else:
                    found.append(np.stack([values[ends[row] : ends[row + 1]] for ends, values in parts], axis=1))
        nulls = sum([mark_null(table.column(name), found, name) for name in reversed(self._steps)])
        return check(found, spec, limits, columns, None if nulls else wholes)


def list_texts(column: pa.ChunkedArray) -> list[str | LengthwiseError | None]:
    """Return texts; Parquet may hold bytes that are none, which Arrow does not look at."""
    try:
        return [*column.to_pylist()]
    except UnicodeDecodeError:
        return [*map(decode, column.cast(pa.large_binary()).to_pylist())]


def mark_null(column: pa.ChunkedArray, found: list[Steps | LengthwiseError], name: str = PLACE) -> int:
    """Put what is wrong in place of each row that is null, since an empty sequence may be right; return how many."""
    rows = np.flatnonzero(column.is_null().to_numpy()) if column.null_count else ()
    for row in rows:
        found[row] = InvalidField(name, "null", "a list")
    return len(rows)


def cut_group(rows: int, size: int) -> int:
    """Return how many rows of a row group are a shard: all, unless they are much more than one should be."""
    times = max(size / bounds.SHARD_BYTES, rows / bounds.SHARD_ROWS)
    return rows if times <= MOST_TIMES else math.ceil(rows / math.ceil(times))


def split_ids(lists: Any) -> tuple[list[Steps | LengthwiseError], npt.NDArray[np.int64]]:
    """Return the ids of each list, `(t,)`, and of all, end to end."""
    ends, ids = flatten(lists)
    whole = to_numpy(ids, pa.int64(), NO_TOKEN)
    return [*split(whole, ends)], whole


def split_steps(lists: Any, features: int) -> tuple[list[Steps | LengthwiseError], npt.NDArray[np.float32] | None]:
    """Return the steps of each list of steps, `(t, F)`, and of all, end to end; None if one has another F."""
    ends, steps = flatten(lists)
    value_ends, values = flatten(steps)
    widths = np.diff(value_ends)
    numbers = to_numpy(values, pa.float32(), math.nan)  # what is too large becomes infinite: both are refused
    if (widths == features).all():
        whole = numbers.reshape(-1, features)
        return [*split(whole, ends)], whole
    found: list[Steps | LengthwiseError] = []
    for start, stop in pairwise(ends):
        wrong = np.flatnonzero(widths[start:stop] != features)
        if len(wrong):
            step = int(wrong[0])
            found.append(FeatureMismatch(f"{PLACE}[{step}]", int(widths[start + step]), features))
        else:
            found.append(numbers[value_ends[start] : value_ends[stop]].reshape(-1, features))
    return found, None


def flatten(lists: Any) -> tuple[npt.NDArray[np.int64], Any]:
    """Return where each of n lists begins and the last one ends, `(n + 1,)`, and what they hold, end to end."""
    lengths = to_numpy(pc.list_value_length(lists), pa.int64(), 0)
    return np.concatenate([[0], np.cumsum(lengths)]), lists.flatten()


def to_numpy(array: Any, kind: Any, null: float) -> npt.NDArray[Any]:
    """Return numbers as another type, with one in place of null; Arrow's own function would import pandas."""
    numbers = array.cast(kind, safe=False)
    return np.from_dlpack(pc.fill_null(numbers, null) if numbers.null_count else numbers)
