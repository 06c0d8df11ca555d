"""Parquet and CSV, read row by row; what is read is checked in `model.data.files`."""

import csv
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.data.datasets import FileSource, LabelKind
from model.data.readers import (
    TEXT_COLUMN,
    UNREAD,
    BadFile,
    FoundSequence,
    Item,
    check_columns,
    join_features,
    name_labels,
    name_steps,
    round_to_float32,
)

ROWS_AT_ONCE = 4096  # of a Parquet file
FLOAT32_MAX = float(np.finfo(np.float32).max)


def read_parquet(path: Path, source: FileSource, labels: LabelKind) -> Iterator[FoundSequence]:
    """Read columns of lists or texts, some thousand rows at a time."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - only who reads Parquet needs it
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise BadFile(
            path, "", "Parquet is read with pyarrow, which is not installed: pip install '.[train]'"
        ) from None
    try:
        with path.open("rb") as content, pq.ParquetFile(content, page_checksum_verification=True) as file:
            names, others = name_steps(source, file.schema_arrow.names), name_labels(source, labels)
            check_columns(path, [*names, *others], file.schema_arrow.names, source)
            check_once(path, [*names, *others], file.schema_arrow.names)
            start = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*names, *others]):
                nothing = [None] * len(batch)
                found = batch.column(source.label).to_pylist() if others else nothing
                partners = _split_column(path, start, batch.column(source.partner)) if labels == "pairs" else nothing
                parts = [_split_column(path, start, batch.column(name)) for name in names]
                for offset, lists in enumerate(zip(*parts, strict=True)):
                    place = f"row {start + offset}"
                    steps = join_features(path, place, names, lists) if source.features else lists[0]
                    yield FoundSequence(place, steps, found[offset], partners[offset], source.features or ())
                start += len(batch)
    except pa.ArrowException as error:
        raise BadFile(path, "", f"it cannot be read as Parquet: {error}") from error


def _split_column(path: Path, start: int, column: Any) -> Sequence[Item]:
    """Take a column apart: a text a row, or an array a row of lists, all of them views into one.

    Args:
        path: for messages.
        start: the number of the column's first row, for messages.
        column: an Arrow array.
    """
    from pyarrow import types  # noqa: PLC0415

    if types.is_dictionary(column.type):  # as pandas writes categories
        column = column.dictionary_decode()
    if types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type):
        return [text or "" for text in column.to_pylist()]
    ends, steps = _flatten(path, column)
    widths = None
    if not types.is_primitive(steps.type):
        value_ends, steps = _flatten(path, steps)
        widths = np.diff(value_ends)
        _check_widths(path, start, widths, ends)
        ends, lengths = value_ends[ends], np.diff(ends)
    if not (types.is_integer(steps.type) or types.is_floating(steps.type)):
        raise BadFile(path, "", f"the steps hold values of the type {steps.type}, which are not numbers")
    values = steps.to_numpy(zero_copy_only=False)  # null becomes NaN, which is refused
    if widths is not None:
        values = round_to_float32(values)
    rows = np.split(np.require(values, requirements="W"), ends[1:-1])  # Arrow's own memory is read only; torch warns
    if widths is None:
        return rows
    return [row.reshape(length, len(row) // max(length, 1)) for row, length in zip(rows, lengths, strict=True)]


def _flatten(path: Path, lists: Any) -> tuple[npt.NDArray[np.int64], Any]:
    """Return where each of n lists begins and the last one ends, `(n + 1,)`, and what they hold, end to end."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    if not isinstance(lists, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        reason = f"the sequences are of the type {lists.type}, which is neither a list nor a text"
        raise BadFile(path, "", reason + "; a step a line is read from .csv" * pa.types.is_primitive(lists.type))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lists.flatten()


def _check_widths(path: Path, start: int, widths: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
    """Refuse a row whose steps do not all hold as many numbers; rows that differ from one another are found later."""
    first = np.repeat(np.append(widths, 0)[ends[:-1]], np.diff(ends))
    if (widths != first).any():
        step = int(np.argmax(widths != first))
        row = int(np.searchsorted(ends, step, side="right")) - 1
        place, number = f"row {start + row}", step - ends[row]
        raise BadFile(path, place, f"step {number} does not hold as many numbers as step 0 does")


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a long CSV: m steps of n sequences, in the file's order."""

    labels: dict[str, str | None]  # by sequence id, in the order of their first lines
    owners: "array[int]"  # (m,), whose step it is
    order: "array[float]"  # (m,), numbers, or seconds since 1970
    values: "array[float] | array[int]"  # (m * F,)
    columns: tuple[str, ...]  # F names


def read_csv(path: Path, source: FileSource, labels: LabelKind) -> Iterator[FoundSequence]:
    """Read a text a line, or one step a line; then the lines of a sequence need not stand together."""
    labelled = labels not in UNREAD
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header: list[str] = next(reader, [])
            if not source.features and source.order not in header and name_steps(source, header)[0] in header:
                yield from _read_texts(path, reader, header, source, labelled=labelled)
                return
            lines = _read_lines(path, reader, header, source, labelled=labelled)
    except csv.Error as error:
        raise BadFile(path, "", f"it cannot be read as CSV: {error}") from error
    owners, order = np.frombuffer(lines.owners, np.int64), np.frombuffer(lines.order, np.float64)
    is_tokens = lines.values.typecode == "q"
    values = np.frombuffer(lines.values, np.int64 if is_tokens else np.float32)
    if not is_tokens:
        values = values.reshape(len(owners), len(values) // max(len(owners), 1))
    by_order = np.lexsort((order, owners))
    if (np.diff(by_order) != 1).any():
        values, owners, order = values[by_order], owners[by_order], order[by_order]
    twice = (np.diff(owners) == 0) & (np.diff(order) == 0)
    names = list(lines.labels)
    if twice.any():
        step = int(np.argmax(twice))
        first = int(np.searchsorted(owners, owners[step]))
        reason = f"steps {step - first} and {step + 1 - first} have the same {source.order!r}: number the steps instead"
        raise BadFile(path, f"sequence {names[owners[step]]!r}", reason)
    steps = np.split(values, np.cumsum(np.bincount(owners, minlength=len(names)))[:-1]) if names else []
    for name, found in zip(names, steps, strict=True):
        yield FoundSequence(f"sequence {name!r}", found, lines.labels[name], columns=lines.columns)


def _read_texts(
    path: Path, reader: Any, header: list[str], source: FileSource, *, labelled: bool
) -> Iterator[FoundSequence]:
    """Read a text a line, and its label if one is asked for; other columns are left alone."""
    check_columns(path, [source.label] if labelled else [], header, source)
    column = name_steps(source, header)[0]
    are_numbers = True
    for place, cells in _read_cells(path, reader, header):
        text = cells[header.index(column)]
        found = _parse_json(text)
        if isinstance(found, list):
            raise BadFile(path, place, f"{column!r} holds a list, and lists are read from .jsonl and .parquet")
        are_numbers &= type(found) in (int, float)
        yield FoundSequence(place, text, cells[header.index(source.label)] if labelled else None)
    if are_numbers:
        raise BadFile(path, "", f"{column!r} holds no text: steps of numbers have a line each, with an id and an order")


def _parse_json(text: str) -> object:
    """Return what a cell holds as JSON; the text itself, if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_cells(path: Path, reader: Any, header: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the cells of each line that is not empty."""
    for cells in reader:
        place = f"line {reader.line_num}"
        if cells and len(cells) != len(header):
            raise BadFile(path, place, f"there are {len(cells)} cells, and {len(header)} columns")
        if cells:
            yield place, cells


def _read_lines(path: Path, reader: Any, header: list[str], source: FileSource, *, labelled: bool) -> _Lines:
    """Read every line of a long CSV into flat arrays."""
    special = [source.id, source.order, *([source.label] if labelled else [])]
    if not {source.id, source.order} & set(header):
        found = ", ".join(map(repr, header)) or "nothing"
        reason = f"there is no {source.id!r}, and no text in {source.sequence!r} or {TEXT_COLUMN!r}: it holds {found}"
        remedy = "--id-column and --order-column name the columns of steps, --sequence-column that of texts"
        if len(header) == 1 and set(header[0]) & set(";\t"):
            remedy = "columns are separated by commas"
        raise BadFile(path, "", f"{reason}; {remedy}")
    names = source.features or tuple(name for name in header if name not in {*special, source.label})
    _check_names(path, header, special, names, source)
    id_place, order_place = header.index(source.id), header.index(source.order)
    features = [header.index(name) for name in names]
    is_tokens = names == ("token",)
    lines = _Lines({}, array("q"), array("d"), array("q" if is_tokens else "f"), names)
    numbers: dict[str, int] = {}
    for place, cells in _read_cells(path, reader, header):
        name, label = cells[id_place], cells[header.index(source.label)] if labelled else None
        if lines.labels.setdefault(name, label) != label:
            raise BadFile(path, place, f"sequence {name!r} has the label {label!r}, and {lines.labels[name]!r} before")
        lines.owners.append(numbers.setdefault(name, len(numbers)))
        lines.order.append(_read_order(path, place, source.order, cells[order_place]))
        for feature in features:
            number = _read_number(path, place, header[feature], cells[feature])
            if is_tokens and not (number.is_integer() and abs(number) < 2**53):  # below, float64 tells integers apart
                raise BadFile(path, place, f"'token' is {cells[feature]!r}, which is not an integer below 2**53")
            lines.values.append(int(number) if is_tokens else number)  # type: ignore[arg-type]
    return lines


def _check_names(path: Path, header: list[str], special: list[str], names: tuple[str, ...], source: FileSource) -> None:
    """Refuse a header that lacks a column, or that does not tell which column is meant."""
    check_columns(path, [*special, *names], header, source)
    if not names:
        raise BadFile(path, "", "there is no column besides id, order and label")
    if nameless := [name for name in names if not name.strip()]:
        reason = "has no name: pandas writes its index so, which is not a feature; write with index=False"
        raise BadFile(path, "", f"column {header.index(nameless[0]) + 1} {reason}")
    check_once(path, [*special, *names], header)


def check_once(path: Path, needed: Sequence[str], found: Sequence[str]) -> None:
    """Refuse a file of which several columns have the name of one that is read."""
    counts = Counter(found)
    if twice := [name for name in needed if counts[name] > 1]:
        raise BadFile(path, "", f"{counts[twice[0]]} columns have the name {twice[0]!r}: give each its own")


def _read_order(path: Path, place: str, column: str, text: str) -> float:
    """Read what steps are ordered by: a number, or a time in seconds since 1970. A time without a zone is UTC."""
    try:
        number = float(text)
    except ValueError:
        try:
            time = datetime.fromisoformat(text.strip())
        except ValueError:
            number = math.nan
        else:
            number = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise BadFile(path, place, f"{column!r} is {text!r}, which is neither a finite number nor a time (ISO 8601)")
    return number


def _read_number(path: Path, place: str, column: str, text: str) -> float:
    remedy = ": fill the gap, or leave the line out"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
        remedy = "; --feature-columns names the columns that are to be read" if text.strip() else remedy
    if not math.isfinite(number) or abs(number) > FLOAT32_MAX:
        remedy = remedy if math.isnan(number) else ""
        raise BadFile(path, place, f"{column!r} is {text!r}, which is not a finite float32{remedy}")
    return number
