"""JSONL and NPZ, read row by row, and what all readers share; what is read is checked in `model.data.files`."""

import json
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from model.data.datasets import FileSource, LabelKind

Item: TypeAlias = npt.NDArray[Any] | str  # what a file holds of a sequence: its steps, or a text
TEXT_COLUMN = "text"  # if there is no column of the name that was asked for
UNREAD: tuple[LabelKind, ...] = ("none", "vectors")  # labels that no file holds
ROLES = ("label", "partner", "id", "order")  # of columns, each with a flag


class BadFile(Exception):
    """A file cannot be learned from: which, where in it, and why."""

    def __init__(self, path: str | Path, place: str, reason: str) -> None:
        super().__init__(f"{path}{', ' if place else ''}{place}: {reason}")


@dataclass(frozen=True, slots=True)
class FoundSequence:
    """One sequence as a reader found it, unchecked.

    Attributes:
        place: where it stands, for messages.
        item: a text, or steps of any shape and type.
        label: the label as the file has it; None if there is none.
        partner: the other item, if labels are about pairs.
        columns: the names of the numbers in a step, if the file has them.
    """

    place: str
    item: Item
    label: object
    partner: Item | None = None
    columns: tuple[str, ...] = ()


def name_steps(source: FileSource, found: Container[str]) -> list[str]:
    """Return the columns that hold sequences: one, or one for each feature."""
    if source.features:
        return [*source.features]
    return [TEXT_COLUMN if source.sequence not in found and TEXT_COLUMN in found else source.sequence]


def name_labels(source: FileSource, labels: LabelKind) -> list[str]:
    """Return what is read of each row besides: its label if any, and its partner if any."""
    partner = [source.partner] if labels == "pairs" else []
    return [] if labels in UNREAD else [source.label, *partner]


def join_features(path: Path, place: str, names: Sequence[str], lists: Sequence[Item]) -> Item:
    """Put what F columns hold of a row side by side: from F lists of t numbers to `(t, F)`."""
    for name, numbers in zip(names, lists, strict=True):
        if isinstance(numbers, str) or numbers.ndim != 1:
            raise BadFile(path, place, f"{name!r} is not a list with a number for each step")
        if len(numbers) != len(lists[0]):
            raise BadFile(path, place, f"{name!r} holds {len(numbers)} numbers, and {names[0]!r} {len(lists[0])}")
    return np.stack([np.asarray(numbers) for numbers in lists], axis=1)


def read_jsonl(path: Path, source: FileSource, labels: LabelKind) -> Iterator[FoundSequence]:
    """Read one JSON object a line; empty lines are skipped."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadFile(path, place, f"it is not JSON: {error}") from error
            if not isinstance(content, dict):
                raise BadFile(path, place, "it is not a JSON object")
            names = name_steps(source, content)
            check_columns(path, [*names, *name_labels(source, labels)], content, source, place)
            read = partial(_read_nested, path, place, may_be_boolean="true" in line or "false" in line)
            parts = [read(content[name]) for name in names]
            steps = join_features(path, place, names, parts) if source.features else parts[0]
            partner = read(content[source.partner]) if labels == "pairs" else None
            yield FoundSequence(place, steps, content.get(source.label), partner, source.features or ())


def _read_nested(path: Path, place: str, steps: Any, *, may_be_boolean: bool) -> Item:
    """Turn nested lists into an array; if they are ragged or hold something else, say at which step.

    NumPy takes true among numbers for 1, so such lines are looked at number by number.
    """
    if isinstance(steps, str):
        if not steps.isascii() and any("\ud800" <= sign <= "\udfff" for sign in steps):
            raise BadFile(path, place, f"the text {steps!a:.40} holds half a character")
        return steps
    if not isinstance(steps, list):
        raise BadFile(path, place, f"the sequence is {steps!r:.40}, which is neither a list nor a text")
    try:
        array = np.array(steps)
    except ValueError:  # ragged
        raise BadFile(path, place, _describe_fault(steps)) from None
    if array.size and (array.dtype.kind not in "iuf" or (may_be_boolean and _holds_boolean(steps))):
        raise BadFile(path, place, _describe_fault(steps))
    return array


def _holds_boolean(steps: list[Any]) -> bool:
    return any(type(found) is bool for step in steps for found in (step if isinstance(step, list) else [step]))


def _describe_fault(steps: list[Any]) -> str:
    width = len(steps[0]) if isinstance(steps[0], list) else None
    for number, step in enumerate(steps):
        for found in step if isinstance(step, list) else [step]:
            if type(found) not in (int, float):
                return f"step {number} holds {found!r:.40}, which is not a number"
        if (len(step) if isinstance(step, list) else None) != width:
            return f"step {number} does not hold as many numbers as step 0 does"
    return "it holds an integer beyond 64 bits"


def read_npz(path: Path, source: FileSource, labels: LabelKind) -> Iterator[FoundSequence]:
    """Read arrays of ragged values: `values`, `lengths` and, if there are labels, `labels`."""
    labelled = labels not in UNREAD
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:  # np.load reads other files, too
            values_name = source.sequence if source.sequence in arrays else "values"
            labels_name = source.label if source.label in arrays else "labels"
            check_columns(path, [values_name, "lengths", *([labels_name] if labelled else [])], list(arrays))
            values, lengths = np.asarray(arrays[values_name]), np.asarray(arrays["lengths"])
            found_labels = np.asarray(arrays[labels_name]) if labelled else np.full(lengths.shape, None)
    except (BadFile, OSError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds if bytes are damaged
        raise BadFile(path, "", f"it is not an NPZ file without pickles: {error}") from error
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any() or values.ndim not in (1, 2):
        raise BadFile(path, "", "lengths must be (n,) integers from 0, and values (sum of lengths, F) or (sum,)")
    if found_labels.ndim != 1:
        raise BadFile(path, "", f"labels must be (n,), one for each sequence, and their shape is {found_labels.shape}")
    if lengths.sum() != len(values) or len(found_labels) != len(lengths):
        found = f"{len(values)} values and {len(found_labels)} labels"
        raise BadFile(path, "", f"there are {found} for {len(lengths)} lengths that add up to {lengths.sum()}")
    if values.dtype.kind == "f":
        values = round_to_float32(values)  # once, so that rows are views
    for number, (end, label) in enumerate(zip(np.cumsum(lengths), found_labels.tolist(), strict=True)):
        yield FoundSequence(f"row {number}", values[end - lengths[number] : end], label)


def round_to_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return numbers as float32, themselves if they are that; what it cannot hold becomes infinite, and is refused."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def check_columns(
    path: Path, needed: Sequence[str], found: Collection[str], source: FileSource | None = None, place: str = ""
) -> None:
    """Refuse a file, or a row of it, that lacks a column; say which it has, and the flag that names another."""
    for name in needed:
        if name not in found:
            held = ", ".join(map(repr, found)) or "nothing"
            raise BadFile(path, place, f"there is no {name!r}: it holds {held}{_name_flag(name, source)}")


def _name_flag(name: str, source: FileSource | None) -> str:
    if source is None or name in (source.features or ()):
        return ""
    if name == source.sequence:
        return "; --sequence-column names another, and --feature-columns several, each with a list for one feature"
    return "".join(f"; --{role}-column names another" for role in ROLES if getattr(source, role) == name)
