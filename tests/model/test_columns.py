"""Columns of users' own files: which are read, in what order, what their cells may hold, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data.datasets import Dataset, FileSource, LabelKind
from model.data.files import read_dataset
from model.data.readers import BadFile
from model.data.summary import describe_dataset, describe_odd_labels
from model.training.run_directory import read_config
from model.training.train import main as train_main

EVENTS = "user,at,event,amount,seconds,churned\n"
FLAGS: dict[str, Any] = {"id": "user", "order": "at", "label": "churned", "features": ("seconds", "amount")}


def read(path: Path, kind: LabelKind = "classes", **options: Any) -> Dataset:
    """Read a file as the command line would, and hold the same file out."""
    return read_dataset(FileSource(path=str(path), **{"test": str(path), **options}), kind)


def test_features_are_the_columns_that_are_named(tmp_path: Path) -> None:
    """Of a CSV of steps they are read in the order in which they are named, and other columns may hold texts."""
    (tmp_path / "a.csv").write_text(EVENTS + "Zoë,1,log in,5,0.5,yes\n李,1,buy,7,1.5,no\nZoë,2,buy,6,2.5,yes\n")
    dataset = read(tmp_path / "a.csv", **FLAGS)
    assert [steps.tolist() for steps in dataset.train.sequences] == [[[0.5, 5.0], [2.5, 6.0]], [[1.5, 7.0]]]
    assert dataset.columns == ("seconds", "amount")
    assert dataset.classes == ("no", "yes")


def test_the_file_to_test_on_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    """Whatever the order of its columns, a feature is the one of that name; one that lacks a feature is refused."""
    (tmp_path / "train.csv").write_text("id,order,label,x,y\na,1,u,1,2\nb,1,v,3,4\n")
    (tmp_path / "test.csv").write_text("y,label,more,x,order,id\n2,u,text,1,1,a\n")
    (tmp_path / "bad.csv").write_text("id,order,label,x,z\na,1,u,1,2\n")
    dataset = read(tmp_path / "train.csv", test=str(tmp_path / "test.csv"))
    assert dataset.test.sequences[0].tolist() == [[1.0, 2.0]]
    with pytest.raises(BadFile, match=r"bad\.csv: there is no 'y': it holds 'id', 'order', 'label', 'x', 'z'$"):
        read(tmp_path / "train.csv", test=str(tmp_path / "bad.csv"))


def test_a_file_to_test_on_may_be_of_another_kind(tmp_path: Path) -> None:
    """Lists of steps have no names, so that those of the table that is trained on are not looked for there."""
    (tmp_path / "train.csv").write_text("id,order,label,x,y\na,1,u,1,2\nb,1,v,3,4\n")
    (tmp_path / "test.jsonl").write_text('{"sequence": [[1, 2]], "label": "u"}\n')
    np.savez(tmp_path / "test.npz", values=[[1.0, 2.0]], lengths=[1], labels=["u"])
    for extension in ("jsonl", "npz"):
        dataset = read(tmp_path / "train.csv", test=str(tmp_path / f"test.{extension}"))
        assert dataset.test.sequences[0].tolist() == [[1.0, 2.0]]


def test_steps_may_be_ordered_by_times(tmp_path: Path) -> None:
    """Times in ISO 8601 order steps, across zones, and without a zone they are of UTC."""
    times = ["2026-03-01T00:30:00Z", "2026-03-01T00:30:00.5+01:00", "2026-02-28 23:59:59"]
    lines = [f"a,{time},{place},u\n" for place, time in enumerate(times)]
    (tmp_path / "a.csv").write_text("id,order,x,label\n" + "".join(lines) + "b,2026-03-01,9,v\n")
    first, second = read(tmp_path / "a.csv").train.sequences
    assert first.tolist() == [[1.0], [2.0], [0.0]]
    assert second.tolist() == [[9.0]]


ROWS: dict[str, list[Any]] = {
    "x": [[1, -2, 300], [4]],
    "y": [[0.5, 1.5, 2.5], [3.5]],
    "label": ["u", "v"],
}


def write_rows(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write Parquet, whose integers have 16 bits, or JSON lines."""
    if path.suffix == ".jsonl":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        table = pa.table(columns)
        pq.write_table(table.set_column(0, "x", pa.array(columns["x"], pa.list_(pa.int16()))), path)


@pytest.mark.parametrize("extension", ["parquet", "jsonl"])
def test_a_column_may_hold_one_feature(extension: str, tmp_path: Path) -> None:
    """Lists of several columns stand side by side; a single one makes steps of one number, not token ids."""
    path = tmp_path / f"a.{extension}"
    write_rows(path, ROWS)
    dataset = read(path, features=("y", "x"))
    assert [steps.tolist() for steps in dataset.train.sequences] == [
        [[0.5, 1.0], [1.5, -2.0], [2.5, 300.0]],
        [[3.5, 4.0]],
    ]
    assert {steps.dtype for steps in dataset.train.sequences} == {np.dtype(np.float32)}
    assert dataset.columns == ("y", "x")
    alone = read(path, features=("x",))
    assert alone.train.sequences[0].tolist() == [[1.0], [-2.0], [300.0]]
    assert alone.features == 1


@pytest.mark.parametrize("extension", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"y": [[0.5, 1.5, 2.5], [3.5, 4.5]]}, "'y' holds 2 numbers, and 'x' 1"),
        ({"y": [[0.5, 1.5, 2.5], [None]]}, "('y' of step 0 is nan, .*: fill gaps first|step 0 holds None)"),
        ({"y": [[[0.5], [1.5], [2.5]], [[3.5]]]}, "'y' is not a list with a number for each step"),
    ],
)
def test_features_that_do_not_fit_together_are_refused(
    extension: str, columns: dict[str, list[Any]], reason: str, tmp_path: Path
) -> None:
    """The sentence names the row and the column."""
    write_rows(tmp_path / f"a.{extension}", ROWS | columns)
    with pytest.raises(BadFile, match=rf"a\.{extension}, (row \d|line \d): {reason}"):
        read(tmp_path / f"a.{extension}", features=("x", "y"))


def test_features_are_not_named_of_files_without_columns(tmp_path: Path) -> None:
    """NPZ holds values, not columns, and a pair is two sequences."""
    for name, kind in (("a.npz", "classes"), ("a.parquet", "pairs")):
        with pytest.raises(BadFile, match="--feature-columns names columns of "):
            read(tmp_path / name, kind, features=("x",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("user,at,x,label\na,1,2,u\n", {}, "it holds 'user', 'at', 'x', 'label'; --id-column and --order-column name"),
        ("id;order;x;label\na;1;2;u\n", {}, "it holds 'id;order;x;label'; columns are separated by commas"),
        ("id,at,x,label\na,1,2,u\n", {}, "there is no 'order': it holds .*; --order-column names another"),
        ("id,order,x,class\na,1,2,u\n", {}, "there is no 'label': it holds .*; --label-column names another"),
        ("id,order,x,x,label\na,1,2,3,u\n", {}, "2 columns have the name 'x': give each its own"),
        ("id,order,x,order,label\na,1,2,3,u\n", {}, "2 columns have the name 'order': give each its own"),
        ("id,order,x,label\na,1,buy,u\n", {}, "line 2: 'x' is 'buy', .*; --feature-columns names the columns that"),
        ("id,order,x,label\na,1,,u\n", {}, "line 2: 'x' is '', .*: fill the gap, or leave the line out"),
        ("id,order,x,label\na,1,NaN,u\n", {}, "line 2: 'x' is 'NaN', .*: fill the gap, or leave the line out"),
        ("id,order,x,label\na,1,1e39,u\n", {}, "line 2: 'x' is '1e39', which is not a finite float32$"),
        ("id,order,x,label\na,noon,1,u\n", {}, "'order' is 'noon', which is neither a finite number nor a time"),
        ("id,order,x,label\na,2026-01-01,1,u\na,2025-01-01,1,u\na,2026-01-01,1,u\n", {}, "steps 1 and 2 have the same"),
        ("id,order,x,label\na,1,2,u\n", {"features": ("z",)}, "there is no 'z': it holds 'id', 'order', 'x', 'label'$"),
    ],
)
def test_a_fault_of_a_csv_says_what_helps(text: str, options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """The flag that names another column, or what to do with a cell, is in the sentence."""
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(BadFile, match=rf"bad\.csv.*{reason}"):
        read(tmp_path / "bad.csv", **options)


@pytest.mark.parametrize("extension", ["parquet", "jsonl"])
def test_texts_may_be_in_a_column_of_that_name(extension: str, tmp_path: Path) -> None:
    """A column `text` is read if there is none of the name that was asked for, as in CSV; else all columns are told."""
    path = tmp_path / f"a.{extension}"
    texts = ["good morning", "guten Morgen"]
    rows: dict[str, list[Any]] = {"text": texts, "label": ["en", "de"]}
    if extension == "jsonl":
        write_rows(path, rows)
    else:
        pq.write_table(pa.table(rows), path)
    assert read(path).train.texts == texts
    with pytest.raises(BadFile, match=r"there is no 'label': it holds 'text', 'label'|--label-column names another"):
        read(path, label="language")


def test_texts_without_labels_are_read_from_every_format(tmp_path: Path) -> None:
    """A teacher's vectors are learned from a file that has no labels, of any kind."""
    pq.write_table(pa.table({"sequence": ["one text"] * 3}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text\n" + "one text\n" * 3)
    (tmp_path / "a.jsonl").write_text('{"text": "one text"}\n' * 3)
    for extension in ("parquet", "csv", "jsonl"):
        assert len(read(tmp_path / f"a.{extension}", "vectors").train) == 3


@pytest.mark.parametrize("label", [None, float("nan")])
def test_a_label_that_is_missing_is_no_class(label: float | None, tmp_path: Path) -> None:
    """NaN in a column of labels is a gap, too, and not a class of that name."""
    columns = {"sequence": [[[1.0]]] * 3, "label": pa.array([1.0, label, 2.0], from_pandas=False)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(BadFile, match=r"a\.parquet, row 1: the label is missing: leave such rows out"):
        read(tmp_path / "a.parquet")


def write_labels(path: Path, labels: list[Any]) -> Path:
    """Write a sequence of two steps a label."""
    path.write_text("".join(json.dumps({"sequence": [[0.5], [1]], "label": label}) + "\n" for label in labels))
    return path


def test_numbers_are_not_taken_for_classes(tmp_path: Path) -> None:
    """Labels that never repeat are refused, and those that hardly do are told of."""
    alone = write_labels(tmp_path / "alone.jsonl", [row / 7 for row in range(9)])
    with pytest.raises(
        BadFile, match="no label occurs twice, so they are no classes: --task regression learns numbers"
    ):
        read(alone, test=None)
    assert read(alone, "numbers", test=None).classes == ()
    hardly = read(write_labels(tmp_path / "hardly.jsonl", [*range(9), *range(5)]), test=None)
    assert describe_odd_labels(hardly) == "the labels of 14 sequences are 9 classes: --task regression learns numbers"
    classes = read(write_labels(tmp_path / "classes.jsonl", ["a", "b"] * 7), test=None)
    assert describe_odd_labels(classes) == ""


def test_what_was_read_is_told(tmp_path: Path) -> None:
    """One sentence has the parts, the lengths, the features by name, and the labels."""
    lines = [
        f"{row},{step},{row},{step},{'yes' if row < 6 else 'no'}\n" for row in range(10) for step in range(row + 1)
    ]
    (tmp_path / "a.csv").write_text("id,order,x,y,label\n" + "".join(lines))
    assert describe_dataset(read(tmp_path / "a.csv", test=None)) == (
        "a: 7 sequences to learn from and 3 to test on, of 1 to 10 steps; a step is 2 numbers (x, y); "
        "2 classes, of which 'yes' is 57%"
    )
    (tmp_path / "ids.jsonl").write_text('{"sequence": [3, 1200], "label": -1.5}\n' * 4)
    assert describe_dataset(read(tmp_path / "ids.jsonl", "numbers")) == (
        "ids: 4 sequences to learn from and 4 to test on, of 2 to 2 steps; a step is a token id below 1,201; "
        "labels from -1.5 to -1.5"
    )
    (tmp_path / "texts.jsonl").write_text('{"text": "so it goes"}\n' * 4)
    assert describe_dataset(read(tmp_path / "texts.jsonl", "none")).endswith("; texts, with a vocabulary of 5")


def test_the_command_reads_the_columns_that_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags name the columns, and the run remembers them, for whatever goes on with it."""
    lines = [f"u{row},2026-01-0{day},buy,{row % 2},{day},{row % 2}\n" for row in range(12) for day in (2, 1)]
    (tmp_path / "a.csv").write_text(EVENTS + "".join(lines))
    command = ["--data", str(tmp_path / "a.csv"), "--id-column", "user", "--order-column", "at", "--epochs", "1"]
    command += ["--label-column", "churned", "--feature-columns", "amount, seconds", "--out", str(tmp_path / "run")]
    train_main(command)
    assert "a step is 2 numbers (amount, seconds)" in capsys.readouterr().err
    config = read_config(tmp_path / "run")
    assert config.data.columns == ["amount", "seconds"]
    assert config.data.file is not None
    assert config.data.file.features == ("amount", "seconds")
    train_main([*command, "--resume"])
    again = [*command, "--feature-columns", "seconds,amount", "--from", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="reads these columns in another order: --feature-columns amount,seconds"):
        train_main(again)
    with pytest.raises(SystemExit):
        train_main([*command, "--feature-columns", "amount,amount"])
    assert "--feature-columns: invalid names value: 'amount,amount'" in capsys.readouterr().err
