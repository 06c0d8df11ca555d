"""Columns of what bulk reads: those the model was trained on are found by their names, in every kind of file."""

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bulk.command import encode, read_embeddings, read_parts, refuse, write_jsonl, write_parquet
from tests.made import take

NAMES = ["x", "y", "z"]
Sequences = list[npt.NDArray[np.float32]]


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A model of three features, which were columns of these names."""
    return take("made", tmp_path / "named.onnx", columns=NAMES)


@pytest.fixture
def expected(sequences: Sequences, tmp_path: Path) -> npt.NDArray[np.float32]:
    """What the same sequences give as lists of steps."""
    encode(write_parquet(tmp_path / "expected.parquet", sequences), "-o", tmp_path / "expected")
    return read_embeddings(tmp_path / "expected")


def test_the_columns_of_a_csv_are_found_by_name(
    sequences: Sequences, named: Path, expected: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """In whatever order they are, beside others that hold texts; times order the steps, and the others are kept."""
    lines = ["z,user,at,event,y,x\n"]
    for row, steps in enumerate(sequences):
        cells = [
            f"{z},Zoë {row},2026-01-01T00:00:{second:02},e{second},{y},{x}\n" for second, (x, y, z) in enumerate(steps)
        ]
        lines += reversed(cells)
    (tmp_path / "in.csv").write_text("".join(lines))
    command = [tmp_path / "in.csv", "--model", named, "--id-column", "user", "--order-column", "at"]
    encode(*command, "-o", tmp_path / "out")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "out"), expected)
    table = read_parts(tmp_path / "out")
    assert table.column_names == ["user", "event", "embedding"]
    assert table["user"].to_pylist() == [f"Zoë {row}" for row in range(len(sequences))]
    assert table["event"].to_pylist() == [f"e{len(steps) - 1}" for steps in sequences]  # as in its first line
    encode(*command, "-o", tmp_path / "less", "--columns", "user")
    assert read_parts(tmp_path / "less").column_names == ["user", "embedding"]
    assert "'x' has a value for each step" in refuse(*command, "-o", tmp_path / "more", "--columns", "user,x")
    assert "order was 'at' and is 'z'" in refuse(*command, "-o", tmp_path / "out", "--order-column", "z")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_may_hold_one_feature(
    kind: str, sequences: Sequences, named: Path, expected: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """Lists of the columns that the model was trained on stand side by side; other columns are kept."""
    columns = {name: [steps[:, place].tolist() for steps in sequences] for place, name in enumerate(NAMES)}
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        table = pa.table({"id": [*range(len(sequences))], **{name: columns[name] for name in reversed(NAMES)}})
        pq.write_table(table, file, row_group_size=4)
    else:
        write_jsonl(
            file, [{"id": row, **{name: columns[name][row] for name in NAMES}} for row in range(len(sequences))]
        )
    encode(file, "-o", tmp_path / "out", "--model", named)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "out"), expected)
    assert read_parts(tmp_path / "out").column_names == ["id", "embedding"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_holds_the_sequence_is_kept_if_it_is_named(kind: str, named: Path, tmp_path: Path) -> None:
    """Of Parquet and JSON lines, as lists of features or of steps; in Parquet, a list of JSON lines is JSON."""
    lists = {"x": [1.0, 2.0], "y": [3.0, 4.0], "z": [5.0, 6.0]}
    steps = [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    for row, name in (({"id": 7, **lists}, "x"), ({"id": 7, "sequence": steps}, "sequence")):
        file = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), file)
        else:
            write_jsonl(file, [row])
        for written in ("jsonl", "parquet"):
            out = tmp_path / f"{name}-{written}"
            encode(file, "-o", out, "--model", named, "--columns", f"id,{name}", "--format", written)
        (line,) = (tmp_path / f"{name}-jsonl/part-00000.jsonl").read_text().splitlines()
        assert {key: json.loads(line)[key] for key in ("id", name)} == {"id": 7, name: row[name]}
        (kept,) = read_parts(tmp_path / f"{name}-parquet")[name].to_pylist()
        assert (json.loads(kept) if kind == "jsonl" else kept) == row[name]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_lists_of_a_row_that_differ_in_length_are_told(kind: str, named: Path, tmp_path: Path) -> None:
    """The row's embedding is null, its problem names the column, and the other rows are encoded."""
    rows = [{"x": [1.0], "y": [2.0], "z": [3.0]}, {"x": [1.0, 1.0], "y": [2.0, 2.0], "z": [3.0]}]
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        write_jsonl(file, [*rows, {"x": 1.0, "y": [2.0], "z": [3.0]}])
    encode(file, "-o", tmp_path / "out", "--model", named)
    told = [json.loads(line)["problem"] for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert told[0]["detail"] == "z is 1 numbers: expected as many as 'x' holds, 2."
    assert [one["path"] for one in told] == ["z", "x"][: len(told)]
    missing = [one is None for one in read_parts(tmp_path / "out")["embedding"].to_pylist()]
    assert missing == [False, True, True][: len(missing)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,order,a,b,c\na,0,1,2,3\n", "there is no column 'x', which the model reads: it has 'id', 'order', 'a'"),
        ("user,order,x,y,z\na,0,1,2,3\n", "there is no column 'id': it has 'user', .*; --id-column names another"),
        ("id,at,x,y,z\na,0,1,2,3\n", "there is no column 'order': it has 'id', .*; --order-column names another"),
        ("id,order,x,x,y,z\na,0,1,9,2,3\n", "2 columns have the name 'x': give each its own"),
    ],
)
def test_columns_that_are_missing_are_named(text: str, said: str, named: Path, tmp_path: Path) -> None:
    """The sentence says which, and the flag that names another."""
    (tmp_path / "in.csv").write_text(text)
    assert re.search(said, refuse(tmp_path / "in.csv", "-o", tmp_path / "out", "--model", named))


def test_an_order_that_is_neither_number_nor_time_is_told(named: Path, tmp_path: Path) -> None:
    """The sequence is named, and the others are encoded."""
    (tmp_path / "in.csv").write_text("id,order,x,y,z\na,noon,1,2,3\nb,2026-01-01,1,2,3\nc,7,1,2,3\n")
    encode(tmp_path / "in.csv", "-o", tmp_path / "out", "--model", named)
    (told,) = map(json.loads, (tmp_path / "out/errors.jsonl").read_text().splitlines())
    assert (told["row"], told["problem"]["path"]) == (0, "order")


def test_texts_may_be_in_a_column_of_that_name(tmp_path: Path) -> None:
    """If there is none of the name that was asked for, in JSON lines and Parquet as in CSV."""
    texts, said = take("texts", tmp_path / "texts.onnx"), ["so it goes", "it, too"]
    write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in said])
    pq.write_table(pa.table({"text": said}), tmp_path / "in.parquet")
    (tmp_path / "in.txt").write_text("\n".join(said))
    for kind in ("jsonl", "parquet", "txt"):
        encode(tmp_path / f"in.{kind}", "-o", tmp_path / kind, "--model", texts)
    for kind in ("jsonl", "parquet"):
        np.testing.assert_array_equal(read_embeddings(tmp_path / kind), read_embeddings(tmp_path / "txt"))
