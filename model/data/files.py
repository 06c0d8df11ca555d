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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.catalogue import DATASETS
from model.data.checks import check_item
from model.data.datasets import Dataset, FileSource, LabelKind, LabelledSequences, Labels, Steps
from model.data.readers import UNREAD, BadFile, Item, read_jsonl, read_npz
from model.data.splits import draw_rows, shuffle_dataset
from model.data.tables import FLOAT32_MAX, read_csv, read_parquet
from model.data.teachers import teach
from model.data.texts import build_word_tokenizer, retokenize, tokenize_all, vocabulary_size

READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".npz": read_npz, ".csv": read_csv}
PAIRS = (".parquet", ".jsonl")  # the formats that hold two sequences in a row
MOST_IDS = 2**24  # unless more are asked for: each has weights, whether it occurs or not
FEWEST = 3  # sequences to learn from, to choose an epoch by and to test on
TEST_SEED = 0  # of the share held out to test on: the same rows for every training seed


@dataclass(frozen=True, slots=True)
class Rows:
    """The checked rows of one file.

    Attributes:
        items: n texts, or n arrays of steps.
        labels: as the file has them.
        places: where each row stands, for messages.
        partners: the other item of each pair; empty if labels are not about pairs.
        columns: the names of the numbers in a step; empty if the file names none.
    """

    items: list[Item]
    labels: list[object]
    places: list[str]
    partners: list[Item]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What is trained or tested on, before texts become token ids: items, their labels as an encoder learns them."""

    items: list[Item]
    labels: Labels | None
    partners: list[Item]

    def subset(self, rows: npt.NDArray[np.int64]) -> "Part":
        """Keep the given rows, in the given order."""
        labels = None if self.labels is None else self.labels[rows]
        partners = [self.partners[row] for row in rows] if self.partners else []
        return Part([self.items[row] for row in rows], labels, partners)


def load_dataset(
    source: str | FileSource,
    labels: LabelKind = "classes",
    *,
    shuffled: bool = False,
    tokenizer: str | None = None,
    teacher: str | None = None,
) -> Dataset:
    """Load a data set by its name in `DATASETS` or from a user's file.

    Args:
        source: the name, or the file.
        labels: what a file's labels are to be read as; `vectors` are the teacher's.
        shuffled: permute the steps of every sequence.
        tokenizer: what makes ids of texts, in place of what would have been built.
        teacher: gives words their vectors, and texts if these are the labels; see `model.data.teachers.open_teacher`.

    Raises:
        BadFile: a file cannot be learned from.
        DatasetUnavailable: a named data set's package is not installed.
        ValueError: a tokenizer or teacher is given, and the data set is not of texts.
    """
    dataset = DATASETS[source]() if isinstance(source, str) else read_dataset(source, labels)
    if tokenizer not in (None, dataset.tokenizer):
        dataset = retokenize(dataset, str(tokenizer))
    if tokenizer is not None:
        dataset = replace(dataset, build_vocabulary=None)  # it is given, whatever is learned from
    if teacher is not None:
        dataset = teach(dataset, teacher, targets=labels == "vectors")
    return shuffle_dataset(dataset) if shuffled else dataset


def read_dataset(source: FileSource, labels: LabelKind) -> Dataset:
    """Read a user's file, and split it unless there is a second one to test on.

    Args:
        source: what to read.
        labels: `classes` (text or integers), `numbers`, `pairs` (a number for each), or `none` and `vectors`, which
            need no label column.

    Raises:
        BadFile: a file or a row of it cannot be learned from; names it and says why.
    """
    rows = _collect(source, source.path, labels)
    held_out = _collect_test(source, rows, labels)
    classes = _name_classes(rows.labels) if labels == "classes" else ()
    whole = _label(source.path, rows, labels, classes)
    if len(classes) == len(whole.items) > FEWEST:
        raise BadFile(
            source.path, "", "no label occurs twice, so they are no classes: --task regression learns numbers"
        )
    if held_out is not None:
        parts = whole, _label(source.test or "", held_out, labels, classes)
    elif len(whole.items) < FEWEST:
        raise BadFile(
            source.path,
            "",
            f"it takes {FEWEST} sequences to train, validate and test, and there are {len(whole.items)}",
        )
    else:
        remaining, apart = draw_rows(len(whole.items), whole.labels, source.test_share, TEST_SEED)
        parts = whole.subset(remaining), whole.subset(apart)
    is_text = isinstance(rows.items[0], str)
    tokenizer = _read_tokenizer(source, parts[0]) if is_text else None
    train, test = (_make_sequences(source, part, tokenizer) for part in parts)
    vocabulary = None if tokenizer is None else vocabulary_size(tokenizer)
    if tokenizer is None and train.sequences[0].ndim == 1:
        largest = max(int(np.max(ids)) for ids in [*rows.items, *rows.partners])
        vocabulary = source.vocabulary or min(1 + largest, MOST_IDS)
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
        build_vocabulary=partial(_count_words, source.vocabulary) if is_text and source.tokenizer is None else None,
        columns=rows.columns if vocabulary is None else (),
    )


def _collect(source: FileSource, path: str, labels: LabelKind, expected: Item | None = None) -> Rows:
    """Read and check every row of a file; `expected` is an item that all others must be of one kind with."""
    extension = Path(path).suffix.lower()
    if extension not in READERS:
        raise BadFile(path, "", f"the extension must be one of {', '.join(READERS)}")
    if labels == "pairs" and extension not in PAIRS:
        raise BadFile(path, "", f"pairs of sequences are read from {' and '.join(PAIRS)}")
    if source.features and (extension == ".npz" or labels == "pairs"):
        raise BadFile(path, "", "--feature-columns names columns of .csv, .parquet and .jsonl, and not of pairs")
    rows = Rows([], [], [], [], ())
    try:
        for row in READERS[extension](Path(path), source, labels):
            rows = rows if rows.columns == row.columns else replace(rows, columns=row.columns)
            item = check_item(path, row.place, row.item, expected, row.columns)
            expected = item if expected is None else expected
            if row.partner is not None:
                rows.partners.append(check_item(path, f"{row.place}, {source.partner!r}", row.partner, expected))
            if labels not in UNREAD and (row.label in (None, "", b"") or row.label != row.label):  # NaN is not itself
                raise BadFile(path, row.place, "the label is missing: leave such rows out")
            rows.items.append(item)
            rows.labels.append(row.label.decode() if isinstance(row.label, bytes) else row.label)
            rows.places.append(row.place)
    except OSError as error:
        raise BadFile(path, "", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise BadFile(path, "", f"it is not UTF-8 text: {error}") from error
    if not rows.items:
        raise BadFile(path, "", "it holds no sequences")
    return rows


def _collect_test(source: FileSource, train: Rows, labels: LabelKind) -> Rows | None:
    """Read the file to test on, if there is one: a table by the names of the first one's columns, in any order."""
    if not source.test:
        return None
    is_alike = Path(source.test).suffix.lower() == Path(source.path).suffix.lower()
    named = replace(source, features=train.columns or None) if is_alike else source
    return _collect(named, source.test, labels, expected=train.items[0])


def _read_tokenizer(source: FileSource, train: Part) -> str:
    """Return the JSON of the user's tokenizer, or of the words of the texts that are trained on."""
    if source.tokenizer is None:
        return _count_words(source.vocabulary, [str(text) for text in [*train.items, *train.partners]])[0]
    try:
        definition = Path(source.tokenizer).read_text(encoding="utf-8")
        vocabulary_size(definition)
    except OSError as error:
        raise BadFile(source.tokenizer, "", error.strerror or str(error)) from error
    except Exception as error:  # the library raises nothing narrower
        raise BadFile(source.tokenizer, "", f"it is not a tokenizer of the tokenizers library: {error}") from error
    return definition


def _count_words(vocabulary: int | None, texts: Sequence[str]) -> tuple[str, None]:
    return build_word_tokenizer(texts, vocabulary), None


def _make_sequences(source: FileSource, part: Part, tokenizer: str | None) -> LabelledSequences:
    """Turn texts into token ids with the tokenizer; without one the items are steps already."""

    def make_steps(items: list[Item]) -> list[Steps]:
        if tokenizer is None:
            return [np.asarray(steps) for steps in items]
        try:
            return tokenize_all(tokenizer, [str(text) for text in items])
        except ValueError as error:
            raise BadFile(source.tokenizer or source.path, "", str(error)) from error

    texts = None if tokenizer is None else [str(text) for text in [*part.items, *part.partners]]
    partners = make_steps(part.partners) if part.partners else None
    return LabelledSequences(make_steps(part.items), part.labels, partners, texts)


def _check_vocabulary(path: str, rows: Rows, vocabulary: int) -> None:
    places = rows.places * (2 if rows.partners else 1)
    for item, place in zip([*rows.items, *rows.partners], places, strict=True):
        steps = np.asarray(item)
        if steps.max() >= vocabulary:
            step = int(steps.argmax())
            remedy = "number the tokens from 1, or say with --vocabulary how many ids there are"
            reason = f"token {steps[step]} at step {step} is beyond the vocabulary of {vocabulary}: {remedy}"
            raise BadFile(path, place, reason)


def _name_classes(labels: list[object]) -> tuple[str, ...]:
    """Return the classes in order: by value if all are integers, else alphabetically."""
    names = {str(label) for label in labels}
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))  # 1 and 01 are two, always in one order
    return tuple(sorted(names))


def _label(path: str, rows: Rows, kind: LabelKind, classes: tuple[str, ...]) -> Part:
    return Part(rows.items, _read_labels(path, rows, kind, classes), rows.partners)


def _read_labels(path: str, rows: Rows, kind: LabelKind, classes: tuple[str, ...]) -> Labels | None:
    """Turn labels into class indices or numbers; None if there are none."""
    if kind in UNREAD:
        return None
    if kind == "classes":
        if len(classes) == 1:
            raise BadFile(path, "", f"every label is {classes[0]!r}: it takes two classes to tell them apart")
        indices = {name: index for index, name in enumerate(classes)}
        for label, place in zip(rows.labels, rows.places, strict=True):
            if str(label) not in indices:
                raise BadFile(path, place, f"the label {label!r} does not occur in the training file")
        return np.array([indices[str(label)] for label in rows.labels], dtype=np.int64)
    numbers = np.empty(len(rows.labels), dtype=np.float32)
    for row, (label, place) in enumerate(zip(rows.labels, rows.places, strict=True)):
        try:
            number = float(str(label))
        except ValueError:
            raise BadFile(path, place, f"the label {label!r} is not a number") from None
        if not abs(number) <= FLOAT32_MAX:
            raise BadFile(path, place, f"the label {label!r} is not a finite number, as float32 holds it")
        numbers[row] = number
    return numbers
