"""Data sets from users' own files, every row checked.

The readers yield the rows of any format. They are checked here, whatever they came from, and kept as float32 or int64
as they come, so that a large file is never held twice.

| extension | what holds the sequences | how a row is named |
|---|---|---|
| `.parquet` | a column of lists of lists of numbers, of lists of token ids, or of texts | `row 0` is the first |
| `.jsonl` | one object a line, with such a list or text | `line 1` is the first |
| `.npz` | `values` `(sum of lengths, F)` or `(sum of lengths,)`, `lengths` and `labels` | `row 0` is the first |
| `.csv` | one step a line: sequence id, order, label, and a column a feature, or one column `token` | its id |
| | or, if no column orders steps, a text a line, in the column of sequences or in `text` | `line 2` is the first |
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.catalogue import DATASETS
from model.data.datasets import Dataset, FileSource, LabelKind, LabelledSequences, Steps
from model.data.readers import BadFile, read_jsonl, read_npz, round_to_float32
from model.data.splits import shuffle_dataset, split
from model.data.tables import read_csv, read_parquet
from model.data.texts import build_word_tokenizer, tokenize, vocabulary_size

READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".npz": read_npz, ".csv": read_csv}
PAIRS = (".parquet", ".jsonl")  # the formats that hold two sequences in a row
TEST_SEED = 0  # of the share held out to test on: the same rows for every training seed


@dataclass(frozen=True, slots=True)
class Rows:
    """The checked rows of one file: n sequences, their labels as the file has them, places and partners."""

    sequences: list[Steps]
    labels: list[object]
    places: list[str]
    partners: list[Steps]


def load_dataset(source: str | FileSource, labels: LabelKind = "classes", *, shuffled: bool = False) -> Dataset:
    """Load a data set by its name in `DATASETS` or from a user's file.

    Args:
        source: the name, or the file.
        labels: what a file's labels are to be read as.
        shuffled: permute the steps of every sequence.

    Raises:
        BadFile: a file cannot be learned from.
        DatasetUnavailable: a named data set's package is not installed.
    """
    dataset = DATASETS[source]() if isinstance(source, str) else read_dataset(source, labels)
    return shuffle_dataset(dataset) if shuffled else dataset


def read_dataset(source: FileSource, labels: LabelKind) -> Dataset:
    """Read a user's file, and split it where there is no second one to test on.

    Args:
        source: what to read.
        labels: `classes` (text or integers), `numbers`, `pairs` (a number for each), or `none`, which needs no label
            column.

    Raises:
        BadFile: a file or a row of it cannot be learned from; names it and says why.
    """
    rows = _collect(source, source.path, labels)
    held_out = _collect(source, source.test, labels, expected=rows.sequences[0]) if source.test else None
    classes = _name_classes(rows.labels) if labels == "classes" else ()
    train = _label(source.path, rows, labels, classes)
    if held_out is None:
        if len(train) < 3:
            raise BadFile(
                source.path, "", f"it takes 3 sequences to train, validate and test, and there are {len(train)}"
            )
        train, test = split(train, source.test_share, TEST_SEED)
    else:
        test = _label(source.test or "", held_out, labels, classes)
    vocabulary, tokenizer = None, None
    if train.sequences[0].ndim == 0:
        tokenizer = _read_tokenizer(source, train)
        train, test = (_tokenize(source, part, tokenizer) for part in (train, test))
        vocabulary = vocabulary_size(tokenizer)
    elif train.sequences[0].ndim == 1:
        vocabulary = source.vocabulary or 1 + max(int(steps.max()) for steps in [*rows.sequences, *rows.partners])
        _check_vocabulary(source.path, rows, vocabulary)
        if held_out is not None:
            _check_vocabulary(source.test or "", held_out, vocabulary)
    return Dataset(
        name=Path(source.path).stem,
        train=train,
        test=test,
        classes=classes,
        source=source.source or Path(source.path).name,
        licence=source.licence,
        vocabulary=vocabulary,
        file=source,
        tokenizer=tokenizer,
    )


def _collect(source: FileSource, path: str, labels: LabelKind, expected: Steps | None = None) -> Rows:
    """Read and check every row of a file; `expected` is a sequence that all others must be of one kind with."""
    extension = Path(path).suffix.lower()
    if extension not in READERS:
        raise BadFile(path, "", f"the extension must be one of {', '.join(READERS)}")
    if labels == "pairs" and extension not in PAIRS:
        raise BadFile(path, "", f"pairs of sequences are read from {' and '.join(PAIRS)}")
    rows = Rows([], [], [], [])
    try:
        for row in READERS[extension](Path(path), source, labels):
            steps = _check_steps(path, row.place, row.steps, expected)
            expected = steps if expected is None else expected
            if row.partner is not None:
                rows.partners.append(_check_steps(path, f"{row.place}, {source.partner!r}", row.partner, expected))
            if labels != "none" and (row.label is None or row.label == ""):
                raise BadFile(path, row.place, "the label is missing")
            rows.sequences.append(steps)
            rows.labels.append(row.label)
            rows.places.append(row.place)
    except OSError as error:
        raise BadFile(path, "", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise BadFile(path, "", f"it is not UTF-8 text: {error}") from error
    if not rows.sequences:
        raise BadFile(path, "", "it holds no sequences")
    return rows


def _check_steps(path: str, place: str, steps: Steps, expected: Steps | None) -> Steps:
    """Return steps as an encoder reads them, a text as it is, or say what is wrong with them and where."""
    if not (str(steps).strip() if steps.ndim == 0 else len(steps)):
        raise BadFile(path, place, "the sequence is empty")
    if steps.ndim > 2 or (steps.ndim > 0 and steps.dtype.kind not in "iuf"):
        raise BadFile(path, place, "a sequence must be a list of steps, each a list of numbers, or a list of token ids")
    if expected is not None and steps.ndim != expected.ndim:
        kinds = {0: "words of a text", 1: "token ids", 2: "lists of numbers"}
        raise BadFile(path, place, f"steps are {kinds[steps.ndim]}, and {kinds[expected.ndim]} in the first sequence")
    if steps.ndim == 0:
        return steps
    if steps.ndim == 1:
        return _check_tokens(path, place, steps)
    if expected is not None and steps.shape[1] != expected.shape[1]:
        found, wanted = steps.shape[1], expected.shape[1]
        raise BadFile(path, place, f"steps have {found} numbers, and {wanted} in the first sequence")
    if not steps.shape[1]:
        raise BadFile(path, place, "steps have no numbers")
    numbers = round_to_float32(steps)
    if not np.isfinite(numbers).all():
        step, feature = np.argwhere(~np.isfinite(numbers))[0]
        found = f"number {feature} of step {step} is {steps[step, feature]}"
        raise BadFile(path, place, f"{found}, which is no finite float32")
    return numbers


def _check_tokens(path: str, place: str, steps: Steps) -> Steps:
    fits = (steps >= 1) & (steps < 2**31)
    if steps.dtype.kind == "f":
        fits &= steps == np.floor(steps)
    if not fits.all():
        step = int(np.argmin(fits))
        reason = f"step {step} is {steps[step]}, which is no token id: an integer from 1, since 0 is padding"
        if steps.dtype.kind == "f":
            reason += "; a step of one number is written as a list of one"
        raise BadFile(path, place, reason)
    return steps.astype(np.int64, copy=False)


def _read_tokenizer(source: FileSource, train: LabelledSequences) -> str:
    """Return the JSON of the user's tokenizer, or of the words of the texts that are trained on."""
    if source.tokenizer is None:
        texts = [str(text) for text in [*train.sequences, *(train.partners or ())]]
        return build_word_tokenizer(texts, source.vocabulary)
    try:
        definition = Path(source.tokenizer).read_text(encoding="utf-8")
        vocabulary_size(definition)
    except OSError as error:
        raise BadFile(source.tokenizer, "", error.strerror or str(error)) from error
    except Exception as error:  # the library raises nothing narrower
        raise BadFile(source.tokenizer, "", f"it is no tokenizer of the tokenizers library: {error}") from error
    return definition


def _tokenize(source: FileSource, texts: LabelledSequences, tokenizer: str) -> LabelledSequences:
    def make_ids(sequences: list[Steps]) -> list[Steps]:
        found = tokenize(tokenizer, [str(text) for text in sequences])
        for text, ids in zip(sequences, found, strict=True):
            if not ids.all():
                reason = (
                    f"of {str(text)!r:.60} a token has the id 0, which is padding: train the tokenizer with [PAD] first"
                )
                raise BadFile(source.tokenizer or source.path, "", reason)
            if not len(ids):
                raise BadFile(source.path, "", f"the text {str(text)!r:.60} holds no token")
        return found

    partners = None if texts.partners is None else make_ids(texts.partners)
    return replace(texts, sequences=make_ids(texts.sequences), partners=partners)


def _check_vocabulary(path: str, rows: Rows, vocabulary: int) -> None:
    places = rows.places * (2 if rows.partners else 1)
    for steps, place in zip([*rows.sequences, *rows.partners], places, strict=True):
        if steps.max() >= vocabulary:
            step = int(steps.argmax())
            raise BadFile(path, place, f"token {steps[step]} at step {step} is beyond the vocabulary of {vocabulary}")


def _name_classes(labels: list[object]) -> tuple[str, ...]:
    """Return the classes in order: by value where all are integers, else alphabetically."""
    names = {str(label) for label in labels}
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _label(path: str, rows: Rows, kind: LabelKind, classes: tuple[str, ...]) -> LabelledSequences:
    return LabelledSequences(rows.sequences, _read_labels(path, rows, kind, classes), rows.partners or None)


def _read_labels(
    path: str, rows: Rows, kind: LabelKind, classes: tuple[str, ...]
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Turn labels into class indices, numbers or nothing."""
    if kind == "none":
        return np.empty((len(rows.labels), 0), dtype=np.float32)
    if kind == "classes":
        indices = {name: index for index, name in enumerate(classes)}
        for label, place in zip(rows.labels, rows.places, strict=True):
            if str(label) not in indices:
                raise BadFile(path, place, f"the label {label!r} does not occur in the training file")
        return np.array([indices[str(label)] for label in rows.labels], dtype=np.int64)
    numbers = np.empty(len(rows.labels), dtype=np.float32)
    for row, (label, place) in enumerate(zip(rows.labels, rows.places, strict=True)):
        try:
            numbers[row] = float(str(label))
        except ValueError:
            raise BadFile(path, place, f"the label {label!r} is no number") from None
        if not np.isfinite(numbers[row]):
            raise BadFile(path, place, f"the label {label!r} is no finite number")
    return numbers
