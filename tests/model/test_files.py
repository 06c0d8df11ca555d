"""Users' own files: every format gives the same data set, and every fault names its row."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model.data import tables
from model.data.batches import SequenceSet
from model.data.datasets import FileSource, LabelKind
from model.data.files import _name_classes, read_dataset
from model.data.readers import BadFile
from model.data.texts import PADDING, UNKNOWN

LISTS = [[[0.5, -1.0], [2.0, 0.0]], [[1.0, 1.0]], [[3.0, 0.25], [0.0, 4.0], [1.0, 2.0]], [[7.0, 7.0]], [[8.0, 1.0]]]
IDS = [[1, 4, 2], [3], [2, 2], [5, 1], [4]]
LABELS = ["b", "a", "b", "a", "b"]


def write_jsonl(path: Path, sequences: list[Any], labels: list[Any]) -> None:
    """Write one object a line, with an empty line between."""
    rows = ({"sequence": steps, "label": label} for steps, label in zip(sequences, labels, strict=True))
    path.write_text("\n\n".join(json.dumps(row) for row in rows))


def write_parquet(path: Path, sequences: list[Any], labels: list[Any]) -> None:
    """Write list columns, with types as pyarrow infers them."""
    pq.write_table(pa.table({"sequence": sequences, "label": labels, "other": labels}), path)


def write_npz(path: Path, sequences: list[Any], labels: list[Any]) -> None:
    """Write the values end to end."""
    values = np.concatenate([np.array(steps) for steps in sequences])
    np.savez(path, values=values, lengths=[len(steps) for steps in sequences], labels=np.array(labels))


def write_csv(path: Path, sequences: list[Any], labels: list[Any]) -> None:
    """Write a step a line, last steps first, so that only `order` tells them apart."""
    is_tokens = np.ndim(sequences[0][0]) == 0
    header = ["id", "order", *(["token"] if is_tokens else ["x", "y"]), "label"]
    lines = [
        [f"s{row}", place, *np.atleast_1d(step).tolist(), label]
        for row, (steps, label) in enumerate(zip(sequences, labels, strict=True))
        for place, step in enumerate(steps)
    ]
    lines.sort(key=lambda line: (-line[1], line[0]))
    # A sequence stands where its first line stands, so that rows come in another order than in the other formats.
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


WRITERS: dict[str, Callable[[Path, list[Any], list[Any]], None]] = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "npz": write_npz,
    "csv": write_csv,
}


def read(path: Path, kind: LabelKind = "classes", test: Path | None = None, **options: Any) -> Any:
    """Read a file as the command line would."""
    return read_dataset(FileSource(path=str(path), test=None if test is None else str(test), **options), kind)


@pytest.mark.parametrize("extension", WRITERS)
@pytest.mark.parametrize("sequences", [LISTS, IDS], ids=["numbers", "tokens"])
def test_every_format_gives_the_same_data_set(extension: str, sequences: list[Any], tmp_path: Path) -> None:
    """Steps, lengths, labels and classes are those that were written, as float32 or int64."""
    path = tmp_path / f"mine.{extension}"
    WRITERS[extension](path, sequences, LABELS)
    dataset = read(path, test=path)
    assert dataset.name == "mine"
    assert dataset.classes == ("a", "b")
    assert (dataset.features, dataset.vocabulary) == ((2, None) if sequences is LISTS else (None, 6))
    assert dataset.inputs == ({"features": 2} if sequences is LISTS else {"vocabulary": 6})

    def normalise(steps: list[npt.NDArray[Any]], labels: list[int]) -> list[str]:
        return sorted(f"{one.tolist()} {label}" for one, label in zip(steps, labels, strict=True))

    dtype = np.dtype(np.float32 if sequences is LISTS else np.int64)
    expected = normalise([np.array(steps, dtype) for steps in sequences], [1, 0, 1, 0, 1])
    for part in (dataset.train, dataset.test):
        assert {steps.dtype for steps in part.sequences} == {dtype}
        assert normalise(part.sequences, part.labels.tolist()) == expected
    if extension != "csv":
        assert [steps.tolist() for steps in dataset.train.sequences] == sequences


@pytest.mark.parametrize("extension", WRITERS)
def test_labels_may_be_numbers_or_missing(extension: str, tmp_path: Path) -> None:
    """Regression reads labels as numbers; a task without labels asks for no column."""
    path = tmp_path / f"mine.{extension}"
    WRITERS[extension](path, LISTS, [0.5, -2, 1e3, 0, 7])
    assert sorted(read(path, "numbers", path).train.labels.tolist()) == [-2.0, 0.0, 0.5, 7.0, 1000.0]
    unlabelled = read(path, "none", path)
    assert unlabelled.train.given_labels is None
    assert unlabelled.label_kind == "none"
    assert unlabelled.features == 2


def test_a_share_is_held_out_of_every_class(tmp_path: Path) -> None:
    """Without a test file the same rows are held out each time, of each class its share."""
    path = tmp_path / "mine.jsonl"
    write_jsonl(path, [[[float(row)]] for row in range(50)], ["a"] * 40 + ["b"] * 10)
    first, again = read(path, test_share=0.3), read(path, test_share=0.3)
    assert np.bincount(first.test.labels).tolist() == [12, 3]
    assert [steps.item() for steps in first.test.sequences] == [steps.item() for steps in again.test.sequences]
    rows = [steps.item() for steps in first.train.sequences + first.test.sequences]
    assert sorted(rows) == list(range(50))


def test_classes_are_ordered_by_value(tmp_path: Path) -> None:
    """Integer labels count, so that 10 comes after 9."""
    path = tmp_path / "mine.jsonl"
    write_jsonl(path, [[[0.0]]] * 4, [10, 9, -1, 10])
    assert read(path, test=path).classes == ("-1", "9", "10")


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    """Every column's name can be given."""
    (tmp_path / "a.csv").write_text("who,when,v,what\nx,2,5,u\nx,1,4,u\ny,1,6,v\nz,1,6,v\n")
    dataset = read(tmp_path / "a.csv", test=tmp_path / "a.csv", id="who", order="when", label="what")
    assert dataset.train.sequences[0].tolist() == [[4.0], [5.0]]
    np.savez(tmp_path / "a.npz", steps=np.ones((3, 2)), lengths=[1, 1, 1], y=[0, 1, 0])
    assert len(read(tmp_path / "a.npz", test=tmp_path / "a.npz", sequence="steps", label="y").train) == 3


def test_parquet_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are read at once, the data set is the same, and rows are counted through the file."""
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 2)
    write_parquet(tmp_path / "a.parquet", LISTS, LABELS)
    assert [steps.tolist() for steps in read(tmp_path / "a.parquet", test=tmp_path / "a.parquet").train.sequences] == (
        LISTS
    )
    write_parquet(tmp_path / "b.parquet", [*LISTS[:4], [[1.0, 2.0], [3.0]]], LABELS)
    with pytest.raises(BadFile, match="row 4: step 1 does not hold as many numbers as step 0 does"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[1.0, 2.0]], [[3.0, 4.0]]], pa.list_(pa.list_(pa.float32()))),
        pa.array([[1, 2], [3]], pa.list_(pa.int64())),
    ],
    ids=["features", "tokens"],
)
def test_what_parquet_held_can_be_written_to(column: Any, tmp_path: Path) -> None:
    """Arrow's memory is read only, of which torch warns, so that sequences are not views into it."""
    pq.write_table(pa.table({"sequence": column, "label": ["a", "b"]}), tmp_path / "a.parquet")
    dataset = read(tmp_path / "a.parquet", test=tmp_path / "a.parquet")
    assert all(steps.flags.writeable for steps in dataset.train.sequences)
    assert len(SequenceSet(dataset.train)[[0, 1]].lengths) == 2


def test_a_file_is_not_held_twice(tmp_path: Path) -> None:
    """Sequences of float32 files are views into what was read, and splits share them."""
    np.savez(
        tmp_path / "a.npz", values=np.ones((8, 2), np.float32), lengths=[2] * 4, labels=np.array(["a", "b", "a", "b"])
    )
    dataset = read(tmp_path / "a.npz")
    buffers = {id(steps.base) for steps in dataset.train.sequences + dataset.test.sequences}
    assert len(buffers) == 1
    assert all(steps.base is not None for steps in dataset.train.sequences)


NAN = float("nan")


@pytest.mark.parametrize(
    ("sequences", "labels", "reason"),
    [
        ([[[1.0]], [[1.0, 2.0]]], "ab", "steps have 2 numbers, and 1 in the first sequence"),
        ([[[1.0]], [[1.0], [2.0], [NAN]]], "ab", "number 0 of step 2 is nan, which is not a finite float32"),
        ([[[1.0, 1.0]], [[1.0, 1e300]]], "ab", "number 1 of step 0 is .*, which is not a finite float32"),
        ([[[1.0]], []], "ab", "the sequence is empty"),
        ([[[1.0]], [[1.0]]], ["a", None], "the label is missing"),
        ([[1, 2], [2, 0]], "ab", "step 1 is 0, which is not a token id: an integer from 1"),
        ([[1, 2], [-3]], "ab", "step 0 is -3, which is not a token id"),
        ([[1.0, 2.0], [1.0, 2.5]], "ab", "step 1 is 2.5, which is not a token id.*written as a list of one"),
    ],
)
@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_a_fault_names_file_row_and_step(
    extension: str, sequences: list[Any], labels: Any, reason: str, tmp_path: Path
) -> None:
    """The second row is at fault, and the sentence says so."""
    path = tmp_path / f"bad.{extension}"
    WRITERS[extension](path, sequences, list(labels))
    place = {"jsonl": "line 3", "parquet": "row 1"}[extension]
    with pytest.raises(BadFile, match=rf"bad\.{extension}, {place}: {reason}"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"sequence": [[1.0, 2.0], [3.0]], "label": 1}', "step 1 does not hold as many numbers as step 0 does"),
        ('{"sequence": [[1.0], 3.0], "label": 1}', "step 1 does not hold as many numbers as step 0 does"),
        ('{"sequence": [[1.0], ["3.0"]], "label": 1}', "step 1 holds '3.0', which is not a number"),
        ('{"sequence": [[1.0], [null]], "label": 1}', "step 1 holds None, which is not a number"),
        ('{"sequence": [[true]], "label": 1}', "step 0 holds True, which is not a number"),
        ('{"sequence": [[0.5], [true]], "label": 1}', "step 1 holds True, which is not a number"),
        ('{"sequence": [2, false], "label": 1}', "step 1 holds False, which is not a number"),
        ('{"text": "a \\ud800", "label": 1}', r"the text 'a \\ud800' holds half a character"),
        ('{"sequence": [[1e999]], "label": 1}', "number 0 of step 0 is inf"),
        ('{"sequence": [[1%s]], "label": 1}' % ("0" * 30), "it holds an integer beyond 64 bits"),
        ('{"sequence": [[]], "label": 1}', "steps have no numbers"),
        ('{"sequence": [[[1.0]]], "label": 1}', "a sequence must be a list of steps"),
        ('{"sequence": 7, "label": 1}', "the sequence is 7, which is neither a list nor a text"),
        ('{"sequence": [[1.0]]}', "there is no 'label': it holds 'sequence'; --label-column names another"),
        ('{"label": 1}', "there is no 'sequence': it holds 'label'; --sequence-column names another"),
        ('{"sequence": [[1.0]], "label": ""}', "the label is missing"),
        ("[1]", "it is not a JSON object"),
        ("{", "it is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_named(line: str, reason: str, tmp_path: Path) -> None:
    """Whatever stands where a sequence belongs, the line and what is wrong with it are named."""
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(BadFile, match=rf"bad\.jsonl, line 1: {reason}"):
        read(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no 'id', and no text in 'sequence' or 'text': it holds nothing"),
        ("review,label\nfine,a\n", "there is no 'id', and no text in 'sequence' or 'text': it holds 'review', 'label'"),
        ("order,text,label\n1,fine,a\n", "there is no 'id': it holds 'order', 'text', 'label'"),
        ("text\nfine\n", "there is no 'label': it holds 'text'"),
        ("text,label\nfine,a\n\nbad,\n", "line 4: the label is missing"),
        ("text,label\nfine,a\n ,b\n", "line 3: the sequence is empty"),
        ("text,label\nfine, and good,a\n", "line 2: there are 3 cells, and 2 columns"),
        (
            'sequence,label\n"[[1, 2]]",a\n',
            "line 2: 'sequence' holds a list, and lists are read from .jsonl and .parquet",
        ),
        ("sequence,label\n1.5,a\n2,b\n", "'sequence' holds no text: steps of numbers have a line each, with an id and"),
        ("id,order,x\n", "there is no 'label': it holds 'id', 'order', 'x'"),
        ("id,order,label\n", "there is no column besides id, order and label"),
        ("id,order,label,x\n", "it holds no sequences"),
        ("id,order,label,x\na,1,u\n", "line 2: there are 3 cells, and 4 columns"),
        ("id,order,label,x\na,1,u,5\na,2,u,oops\n", "line 3: 'x' is 'oops', which is not a finite float32"),
        ("id,order,label,x\na,1,u,nan\n", "line 2: 'x' is 'nan', which is not a finite float32"),
        ("id,order,label,x\na,1,u,1e39\n", "line 2: 'x' is '1e39', which is not a finite float32"),
        ("id,order,label,x\na,first,u,1\n", "line 2: 'order' is 'first'"),
        ("id,order,label,x\na,1,u,5\n\na,2,v,5\n", "line 4: sequence 'a' has the label 'v', and 'u' before"),
        ("id,order,label,x\na,1,u,5\na,1,u,6\n", "sequence 'a': steps 0 and 1 have the same 'order'"),
        ("id,order,label,x\na,1,,5\n", "sequence 'a': the label is missing"),
        ("id,order,label,token\na,1,u,2.5\n", "line 2: 'token' is '2.5', which is not an integer"),
        ("id,order,label,token\na,1,u,1e30\n", "line 2: 'token' is '1e30', which is not an integer"),
        (",id,order,label,x\n0,a,1,u,5\n1,b,1,v,6\n", "column 1 has no name: pandas writes its index so"),
        ("id,order,label,token\na,1,u,0\n", "sequence 'a': step 0 is 0, which is not a token id"),
        ("id,order,label,x\na,1,u," + "5" * 200_000, "it cannot be read as CSV: field larger"),
    ],
)
def test_a_bad_csv_is_named_by_line_or_sequence(text: str, reason: str, tmp_path: Path) -> None:
    """Cells are named by line, sequences by id."""
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(BadFile, match=rf"bad\.csv(, |: ){reason}"):
        read(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"values": [[1.0]], "labels": [1]}, "there is no 'lengths': it holds 'values', 'labels'"),
        ({"values": [[1.0]], "lengths": [1]}, "there is no 'labels'"),
        ({"values": [[1.0]], "lengths": [2], "labels": [1]}, "1 values and 1 labels for 1 lengths that add up to 2"),
        ({"values": [[1.0]], "lengths": [1], "labels": [1, 2]}, "1 values and 2 labels for 1 lengths"),
        ({"values": [[1.0]], "lengths": [1.0], "labels": [1]}, "lengths must be"),
        ({"values": 1.0, "lengths": [1], "labels": [1]}, "lengths must be"),
        ({"values": [[1.0]], "lengths": [1, 0], "labels": [1, 2]}, "row 1: the sequence is empty"),
        ({"values": [["a"]], "lengths": [1], "labels": [1]}, "row 0: a sequence must be a list of steps"),
        ({"values": np.array([None]), "lengths": [1], "labels": [1]}, "it is not an NPZ file without pickles"),
        ({"values": [[1.0]], "lengths": [1], "labels": [[1]]}, r"labels must be \(n,\), one for each sequence"),
        ({"values": [[1.0]], "lengths": [1], "labels": 1}, r"labels must be \(n,\), one for each sequence"),
    ],
)
def test_a_bad_npz_is_refused(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Arrays that are missing or do not fit together are named, and pickles are never loaded."""
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadFile, match=rf"bad\.npz(, |: ).*{reason}"):
        read(tmp_path / "bad.npz")
    with (tmp_path / "bad.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadFile, match=r"bad\.npz: it is not an NPZ file without pickles: File is not a zip file"):
        read(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": ["a"]}, "there is no 'sequence': it holds 'label'"),
        ({"sequence": [[1]]}, "there is no 'label'"),
        ({"sequence": [1.5], "label": ["a"]}, "the sequences are of the type double, which is neither a list nor a"),
        ({"sequence": [["abc"]], "label": ["a"]}, "of the type string, which is neither a list nor a text"),
        ({"sequence": ["abc", None], "label": ["a", "b"]}, "row 1: the sequence is empty"),
        ({"sequence": [[[True]]], "label": ["a"]}, "the steps hold values of the type bool"),
        ({"sequence": [None], "label": ["a"]}, "of the type null, which is neither a list nor a text"),
        ({"sequence": [[[1.0]], None], "label": ["a", "b"]}, "row 1: the sequence is empty"),
        ({"sequence": [[[1.0]], [[1.0], [None]]], "label": ["a", "b"]}, "row 1: number 0 of step 1 is nan"),
        ({"sequence": [[[1.0]], [[]]], "label": ["a", "b"]}, "row 1: steps have 0 numbers, and 1 in the first"),
        ({"sequence": [[[[1.0]]]], "label": ["a"]}, "the steps hold values of the type list"),
        ({"sequence": [[1]], "label": ["a"], "label ": ["b"]}, "2 columns have the name 'label'"),
    ],
)
def test_a_bad_parquet_is_refused(columns: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Columns of other types, nulls, and two columns of one name are named."""
    pq.write_table(pa.table([*columns.values()], [*map(str.strip, columns)]), tmp_path / "bad.parquet")
    with pytest.raises(BadFile, match=rf"bad\.parquet(, |: ).*{reason}"):
        read(tmp_path / "bad.parquet")


@pytest.mark.parametrize("extension", WRITERS)
def test_what_is_no_such_file_is_refused(extension: str, tmp_path: Path) -> None:
    """A missing file, and one of another format, are one sentence each."""
    with pytest.raises(BadFile, match=rf"none\.{extension}: No such file"):
        read(tmp_path / f"none.{extension}")
    (tmp_path / f"junk.{extension}").write_bytes(b"\x93\xff\x00junk\n" * 9)
    with pytest.raises(BadFile, match=rf"junk\.{extension}: "):
        read(tmp_path / f"junk.{extension}")


def test_other_extensions_are_refused(tmp_path: Path) -> None:
    """The sentence says which there are."""
    with pytest.raises(BadFile, match=r"a\.xlsx: the extension must be one of \.parquet, \.jsonl, \.npz, \.csv"):
        read(tmp_path / "a.xlsx")


def test_the_test_file_must_fit_the_training_file(tmp_path: Path) -> None:
    """Another number of features, an unknown label and an unknown token are named by the test file's row."""
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    write_jsonl(train, LISTS, LABELS)
    write_jsonl(test, [[[1.0]]], ["a"])
    with pytest.raises(BadFile, match=r"test\.jsonl, line 1: steps have 1 numbers, and 2 in the first sequence"):
        read(train, test=test)
    write_jsonl(test, LISTS[:2], ["a", "c"])
    with pytest.raises(BadFile, match=r"test\.jsonl, line 3: the label 'c' does not occur in the training file"):
        read(train, test=test)
    write_jsonl(test, IDS[:2], ["a", "b"])
    with pytest.raises(BadFile, match=r"test\.jsonl, line 1: steps are token ids, and lists of numbers in the first"):
        read(train, test=test)
    write_jsonl(train, IDS, LABELS)
    write_jsonl(test, [[1], [2, 6]], ["a", "b"])
    with pytest.raises(BadFile, match=r"test\.jsonl, line 3: token 6 at step 1 is beyond the vocabulary of 6"):
        read(train, test=test)
    assert read(train, test=test, vocabulary=7).vocabulary == 7
    with pytest.raises(BadFile, match=r"train\.jsonl, line 1: token 4 at step 1 is beyond the vocabulary of 3"):
        read(train, test=test, vocabulary=3)


@pytest.mark.parametrize(("label", "reason"), [("x", "is not a number"), ("inf", "is not a finite number")])
def test_regression_needs_numbers(label: str, reason: str, tmp_path: Path) -> None:
    """A label that is not a number is named by its row."""
    write_jsonl(tmp_path / "a.jsonl", LISTS[:2], [1.5, label])
    with pytest.raises(BadFile, match=rf"a\.jsonl, line 3: the label '{label}' {reason}"):
        read(tmp_path / "a.jsonl", "numbers")


def test_a_few_rows_are_too_few(tmp_path: Path) -> None:
    """Two sequences cannot be trained, validated and tested on."""
    write_jsonl(tmp_path / "a.jsonl", LISTS[:2], LABELS[:2])
    with pytest.raises(BadFile, match="it takes 3 sequences to train, validate and test, and there are 2"):
        read(tmp_path / "a.jsonl")


TEXTS = ["A cat sat.", "a dog sat", "the cat", "dog, dog", "a cat"]
PARTNERS = ["the cat sat", "A dog.", "a cat", "a cat", "cat"]


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_texts_become_ids_of_the_words_that_are_trained_on(extension: str, tmp_path: Path) -> None:
    """Words seen twice in the training file have ids, by frequency; all others are unknown, also in the test file."""
    train, test = tmp_path / f"train.{extension}", tmp_path / f"test.{extension}"
    WRITERS[extension](train, TEXTS, LABELS)
    WRITERS[extension](test, ["The cat ran"], ["a"])
    dataset = read(train, test=test)
    a, cat, dog, sat = 2, 3, 4, 5
    assert [steps.tolist() for steps in dataset.train.sequences] == [
        [a, cat, sat, 1],
        [a, dog, sat],
        [1, cat],
        [dog, 1, dog],
        [a, cat],
    ]
    assert [steps.tolist() for steps in dataset.test.sequences] == [[1, cat, 1]]
    assert dataset.vocabulary == 6
    assert dataset.tokenizer is not None
    assert read(train, test=test, vocabulary=3).train.sequences[0].tolist() == [a, 1, 1, 1]


@pytest.mark.parametrize("column", ["sequence", "text", "review"])
def test_a_csv_of_texts_is_what_jsonl_of_them_is(column: str, tmp_path: Path) -> None:
    """A text a line, with commas and line breaks in quotes, ids and other columns left alone, and texts of numbers."""
    texts = [*TEXTS, 'so "good", a\ncat', "10", "[sic] a"]
    labels = [*LABELS, "a", "b", "a"]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = [["id", "stars", column, "label"]]
        rows += [[str(row), "5", text, label] for row, (text, label) in enumerate(zip(texts, labels, strict=True))]
        csv.writer(file).writerows(rows)
    write_jsonl(tmp_path / "a.jsonl", texts, labels)
    named: dict[str, Any] = {} if column == "text" else {"sequence": column}
    found, expected = read(tmp_path / "a.csv", **named), read(tmp_path / "a.jsonl")
    assert found.tokenizer == expected.tokenizer
    for one, other in ((found.train, expected.train), (found.test, expected.test)):
        assert [steps.tolist() for steps in one.sequences] == [steps.tolist() for steps in other.sequences]
        assert one.labels.tolist() == other.labels.tolist()
    unlabelled = read(tmp_path / "a.csv", "none", **named)
    assert len(unlabelled.train) + len(unlabelled.test) == len(texts)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_texts_in_parquet_may_be_categories_or_views(kind: pa.DataType, tmp_path: Path) -> None:
    """As pandas and others write them."""
    write_parquet(tmp_path / "plain.parquet", TEXTS, LABELS)
    table = pq.read_table(tmp_path / "plain.parquet")
    columns = {name: table[name].cast(kind) if name == "sequence" else table[name] for name in table.column_names}
    pq.write_table(pa.table(columns), tmp_path / "other.parquet")
    found, expected = read(tmp_path / "other.parquet"), read(tmp_path / "plain.parquet")
    assert found.train.texts == expected.train.texts
    assert found.tokenizer == expected.tokenizer


def test_labels_that_are_bytes_are_texts(tmp_path: Path) -> None:
    """NumPy and Parquet may hold them, and a class is not named `b'cat'`."""
    labels = [b"cat", b"dog"] * 3
    np.savez(tmp_path / "a.npz", values=np.ones((6, 1)), lengths=[1] * 6, labels=np.array(labels))
    pq.write_table(pa.table({"sequence": [[[1.0]]] * 6, "label": labels}), tmp_path / "a.parquet")
    for name in ("a.npz", "a.parquet"):
        assert read(tmp_path / name).classes == ("cat", "dog")


def test_the_mark_that_a_file_begins_with_is_not_part_of_it(tmp_path: Path) -> None:
    """Windows writes a byte order mark, in JSONL as in CSV."""
    write_jsonl(tmp_path / "a.jsonl", TEXTS, LABELS)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    assert read(tmp_path / "b.jsonl").train.texts == read(tmp_path / "a.jsonl").train.texts


def test_an_npz_that_is_damaged_is_refused(tmp_path: Path) -> None:
    """Whatever the libraries that read it raise."""
    np.savez(tmp_path / "bad.npz", values=np.ones((6, 1)), lengths=[1] * 6, labels=["a", "b"] * 3)
    content = (tmp_path / "bad.npz").read_bytes()
    place = content.index(b"PK\1\2") + 8  # flags in the directory: as if it were of patches
    (tmp_path / "bad.npz").write_bytes(content[:place] + b"\x20" + content[place + 1 :])
    with pytest.raises(BadFile, match=r"bad\.npz: it is not an NPZ file without pickles"):
        read(tmp_path / "bad.npz")


def test_parquet_whose_checksums_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Many engines write them, so a number that was damaged is not learned as another one."""
    path = tmp_path / "a.parquet"
    table = pa.table({"sequence": [[[1234.5]]] * 6, "label": ["a", "b"] * 3})
    flags: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **flags)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float64(1234.5).tobytes(), np.float64(1235.5).tobytes(), 1))
    with pytest.raises(BadFile, match=r"a\.parquet: .*CRC checksum verification failed"):
        read(path)


def test_ids_that_are_hashes_are_refused_before_memory_is(tmp_path: Path) -> None:
    """Each id up to the largest would have weights; whoever has so many says so."""
    write_jsonl(tmp_path / "a.jsonl", [[2**30, 5], [7], [8]] * 2, ["a", "b", "a"] * 2)
    with pytest.raises(
        BadFile, match=r"line 1: token 1073741824 at step 0 is beyond the vocabulary of 16777216: number"
    ):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", vocabulary=2**30 + 1).vocabulary == 2**30 + 1


def test_words_are_those_of_what_is_trained_on(tmp_path: Path) -> None:
    """No word is known for occurring in the share that is held out."""
    write_jsonl(tmp_path / "a.jsonl", [f"w{row} w{row} common" for row in range(20)], ["a", "b"] * 10)
    dataset = read(tmp_path / "a.jsonl")
    assert dataset.vocabulary == 2 + 1 + 16
    assert all(steps[0] == 1 for steps in dataset.test.sequences)


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
@pytest.mark.parametrize(("sequences", "partners"), [(TEXTS, PARTNERS), (IDS, IDS[::-1]), (LISTS, LISTS[::-1])])
def test_pairs_are_read(extension: str, sequences: list[Any], partners: list[Any], tmp_path: Path) -> None:
    """The partner of each sequence stands in a column of its own, and shares its vocabulary."""
    path = tmp_path / f"pairs.{extension}"
    if extension == "jsonl":
        rows = zip(sequences, partners, range(5), strict=True)
        path.write_text("".join(json.dumps({"sequence": a, "other": b, "label": c}) + "\n" for a, b, c in rows))
    else:
        pq.write_table(pa.table({"sequence": sequences, "other": partners, "label": range(5)}), path)
    dataset = read(path, "pairs", partner="other")
    assert dataset.label_kind == "pairs"
    assert len(dataset.train) + len(dataset.test) == 5
    found = dict(
        zip(
            [*dataset.train.labels, *dataset.test.labels],
            [*dataset.train.partners, *dataset.test.partners],
            strict=True,
        )
    )
    if sequences is not TEXTS:
        for row in range(5):
            np.testing.assert_array_equal(found[row], partners[row])


def test_pairs_of_other_formats_and_missing_partners_are_refused(tmp_path: Path) -> None:
    """The sentence says what can be read, or where what is missing."""
    write_npz(tmp_path / "a.npz", LISTS, [1, 2, 3, 4, 5])
    with pytest.raises(BadFile, match=r"a\.npz: pairs of sequences are read from \.parquet and \.jsonl"):
        read(tmp_path / "a.npz", "pairs")
    write_jsonl(tmp_path / "a.jsonl", TEXTS, [1, 2, 3, 4, 5])
    with pytest.raises(BadFile, match=r"line 1: there is no 'partner': it holds 'sequence', 'label'"):
        read(tmp_path / "a.jsonl", "pairs")
    (tmp_path / "b.jsonl").write_text('{"sequence": "a b", "partner": [1], "label": 1}')
    with pytest.raises(BadFile, match=r"line 1, 'partner': steps are token ids, and words of a text in the first"):
        read(tmp_path / "b.jsonl", "pairs")


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_text_is_named(text: str, tmp_path: Path) -> None:
    """It is an empty sequence, named by its row."""
    write_jsonl(tmp_path / "a.jsonl", ["a", text], ["a", "b"])
    with pytest.raises(BadFile, match="line 3: the sequence is empty"):
        read(tmp_path / "a.jsonl")


def test_texts_may_be_split_by_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    """Its ids and special tokens are those that the service will use; padding's id must not occur."""
    own = Tokenizer(models.WordLevel({PADDING: 0, UNKNOWN: 1, "a": 2, "cat": 7, "[CLS]": 4}, unk_token=UNKNOWN))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(single="[CLS] $0", special_tokens=[("[CLS]", 4)])
    own.enable_padding(length=9)
    own.save(str(tmp_path / "own.json"))
    write_jsonl(tmp_path / "a.jsonl", ["a cat", "a", "a dog"], LABELS[:3])
    write_jsonl(tmp_path / "test.jsonl", ["cat"], ["a"])
    dataset = read(tmp_path / "a.jsonl", test=tmp_path / "test.jsonl", tokenizer=str(tmp_path / "own.json"))
    assert [steps.tolist() for steps in dataset.train.sequences] == [[4, 2, 7], [4, 2], [4, 2, 1]]
    assert dataset.vocabulary == 8
    own = Tokenizer(models.WordLevel({"a": 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    own.save(str(tmp_path / "own.json"))
    with pytest.raises(BadFile, match=r"own\.json: of 'a' a token has the id 0, which is padding"):
        read(tmp_path / "a.jsonl", test=tmp_path / "a.jsonl", tokenizer=str(tmp_path / "own.json"))
    (tmp_path / "own.json").write_text("{}")
    with pytest.raises(BadFile, match=r"own\.json: it is not a tokenizer"):
        read(tmp_path / "a.jsonl", tokenizer=str(tmp_path / "own.json"))
    with pytest.raises(BadFile, match=r"none\.json: No such file"):
        read(tmp_path / "a.jsonl", tokenizer=str(tmp_path / "none.json"))


@pytest.mark.parametrize("extension", ["jsonl", "parquet", "csv"])
def test_texts_that_a_teacher_labels_need_no_column_of_labels(extension: str, tmp_path: Path) -> None:
    """What a teacher says of a text is no cell of its file, in any format that holds texts."""
    path = tmp_path / f"mine.{extension}"
    if extension == "jsonl":
        path.write_text("\n".join(json.dumps({"sequence": text}) for text in TEXTS))
    elif extension == "parquet":
        pq.write_table(pa.table({"sequence": TEXTS}), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    dataset = read(path, "vectors", path)
    assert dataset.train.texts == TEXTS
    assert dataset.train.given_labels is None


def test_json_that_is_too_deep_is_named(tmp_path: Path) -> None:
    """Brackets without end are a fault of the line that has them."""
    (tmp_path / "a.jsonl").write_text('{"sequence": ' + "[" * 100_000)
    with pytest.raises(BadFile, match=r"a\.jsonl, line 1: it is not JSON"):
        read(tmp_path / "a.jsonl")


def test_a_label_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    """It is named by its row, rather than learned as infinity."""
    write_jsonl(tmp_path / "a.jsonl", LISTS[:2], [1.5, 1e39])
    with pytest.raises(BadFile, match=r"line 3: the label 1e\+39 is not a finite number, as float32 holds it"):
        read(tmp_path / "a.jsonl", "numbers")


def test_one_class_is_refused_before_training(tmp_path: Path) -> None:
    """Whoever has only one label is told so at once, and not by a probe after the training."""
    write_jsonl(tmp_path / "a.jsonl", LISTS, ["a"] * 5)
    with pytest.raises(BadFile, match=r"a\.jsonl: every label is 'a': it takes two classes"):
        read(tmp_path / "a.jsonl")


def test_classes_of_one_sequence_each_leave_nothing_to_test_on(tmp_path: Path) -> None:
    """No share can be held out of them, and the sentence says why."""
    write_jsonl(tmp_path / "a.jsonl", LISTS[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="of 3 sequences none can be held out: no class has two of them"):
        read(tmp_path / "a.jsonl")


def test_classes_of_one_value_have_one_order() -> None:
    """The index of a class depends on its name alone, not on the order in which a set holds it."""
    names = [f"{'0' * zeros}{value}" for value in (2, 1) for zeros in range(9)]
    expected = tuple(sorted(names, key=lambda name: (int(name), name)))
    assert _name_classes(list(names)) == expected
    assert _name_classes(list(reversed(names))) == expected
