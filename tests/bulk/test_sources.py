"""What bulk reads: each kind of input gives the same rows, however it is cut into shards."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from bulk.sources.files import find_inputs
from tests.bulk.command import encode, hash_folder, read_embeddings, read_parts, refuse, write_parquet
from tests.conftest import FEATURES, draw_sequences
from tests.made import take


def test_a_large_row_group_is_several_shards(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """Files of one row group are cut by rows, and read in any order they give the rows of many small groups."""
    ids = [*range(len(sequences))]
    encode(write_parquet(tmp_path / "small.parquet", sequences, 2, id=ids), "-o", tmp_path / "small")
    file = write_parquet(tmp_path / "large.parquet", sequences, 16, id=ids)
    encode(file, "-o", tmp_path / "large")
    shards = json.loads((tmp_path / "large/plan.json").read_text())["shards"]
    assert len(shards) > 2
    assert {(shard["first"], shard["last"]) for shard in shards} == {(0, 1)}
    assert read_parts(tmp_path / "large").equals(read_parts(tmp_path / "small"))
    for share in ("2/3", "0/3", "1/3"):
        encode(file, "-o", tmp_path / "shared", "--shard", share)
    assert hash_folder(tmp_path / "shared") == hash_folder(tmp_path / "large")
    assert len(read_embeddings(tmp_path / "shared")) == 16


def write_csv(path: Path, sequences: list[npt.NDArray[np.float32]]) -> Path:
    """Write a step a line, compressed if the name says so; the steps of a sequence are out of order."""
    lines = [f"id,order,label,{','.join(f'f{n}' for n in range(FEATURES))}\n"]
    for row, steps in enumerate(sequences):
        numbered = [*enumerate(steps.tolist())]
        lines += [f"s{row},{order},l{row % 2},{','.join(map(repr, step))}\n" for order, step in reversed(numbered)]
    text = "".join(lines).encode()
    codecs = {".gz": "gzip", ".zst": "zstd"}
    if path.suffix in codecs:
        text = pa.compress(text, codecs[path.suffix], asbytes=True) if path.suffix == ".zst" else gzip.compress(text)
    path.write_bytes(text)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "csv.zst"])
def test_steps_of_a_csv_are_grouped_and_ordered(
    kind: str, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Lines of one id are a sequence, ordered by `order`; id and label are kept, and shards end between sequences."""
    encode(write_parquet(tmp_path / "in.parquet", sequences), "-o", tmp_path / "expected")
    encode(write_csv(tmp_path / f"in.{kind}", sequences), "-o", tmp_path / "out")
    assert len(json.loads((tmp_path / "out/plan.json").read_text())["shards"]) > 1
    np.testing.assert_array_equal(read_embeddings(tmp_path / "out"), read_embeddings(tmp_path / "expected"))
    table = read_parts(tmp_path / "out")
    assert table["id"].to_pylist() == [f"s{row}" for row in range(16)]
    assert table["label"].to_pylist() == [f"l{row % 2}" for row in range(16)]


def test_cells_of_a_csv_that_are_wrong_are_told_by_sequence(tmp_path: Path) -> None:
    """A cell that is no number, an order that comes twice, a NaN: the other sequences are encoded."""
    rows = ["a,0,1,2,3", "b,0,1,x,3", "c,0,1,2,3", "c,0,1,2,3", "d,0,1,,3", "e,1,4,5,6", "e,0,1,2,3"]
    (tmp_path / "in.csv").write_text("id,order,f0,f1,f2\n" + "\n".join(rows))
    encode(tmp_path / "in.csv", "-o", tmp_path / "out")
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [(one["row"], one["problem"]["path"]) for one in told] == [(1, "f1"), (2, "order"), (3, "f1")]
    missing = [one is None for one in read_parts(tmp_path / "out")["embedding"].to_pylist()]
    assert missing == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,order,f0,f1,f2\na,0,1,2,3\nb,0,1,2,3\na,1,1,2,3\n", "sequence 'a' comes back after another"),
        ("id,order,f0,f1,f2\na,0,1,2,3\n\nb,0,1,2,3\n", "empty lines"),
        ("id,order,f0\na,0,1\n", "the model reads 3 columns"),
        ("id,f0,f1,f2\na,1,2,3\n", "there is no column 'order'"),
        ("id,order,f0,f1,f2\na,0,1\n", "it cannot be read"),
    ],
)
def test_a_csv_that_cannot_be_cut_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """The sentence says what is wrong with it."""
    (tmp_path / "in.csv").write_text(text)
    assert said in refuse(tmp_path / "in.csv", "-o", tmp_path / "out")


def test_token_ids_and_texts_are_read_from_csv_too(tmp_path: Path) -> None:
    """A column `token` holds ids; a column of texts holds a sequence a line, and the others are kept."""
    tokens, texts = take("tokens", tmp_path / "tokens.onnx"), take("texts", tmp_path / "texts.onnx")
    (tmp_path / "ids.csv").write_text("id,order,token\na,0,1\na,1,2\nb,0,3.5\nc,0,4\n")
    encode(tmp_path / "ids.csv", "-o", tmp_path / "ids", "--model", tokens)
    (told,) = map(json.loads, (tmp_path / "ids/errors.jsonl").read_text().splitlines())
    assert (told["row"], told["problem"]["path"]) == (1, "token")
    (tmp_path / "in.txt").write_text("so it goes\nit, too\n")
    (tmp_path / "in.csv").write_text('name,text\na,so it goes\nb,"it, too"\n')
    for kind in ("txt", "csv"):
        encode(tmp_path / f"in.{kind}", "-o", tmp_path / kind, "--model", texts)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "csv"), read_embeddings(tmp_path / "txt"))
    assert read_parts(tmp_path / "csv")["name"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_batch_requests_are_answered_as_the_service_answers_them(
    kind: str, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    """Each line's answer is the service's own, byte for byte, whether it holds embeddings or a refusal."""
    good, more = draw_sequences([3, 2])
    name = serve().get("/info").json()["models"][0]["name"]
    bodies: list[dict[str, Any]] = [
        {"model": name, "input": [good.tolist(), more.tolist()]},
        {"model": name, "input": good.tolist(), "encoding_format": "base64"},
        {"model": "another", "input": good.tolist()},
        {"model": name, "input": [[1.0, 2.0]]},
        {"model": name, "input": more.tolist(), "dimensions": 7},
        {"model": name, "input": more.tolist(), "encoding_format": "float"},
    ]
    frame = {"method": "POST", "url": "/v1/embeddings"}
    lines = [json.dumps({"custom_id": f"r{row}", **frame, "body": body}) for row, body in enumerate(bodies)]
    text = "".join(f"{line}\n" for line in [*lines, '{"custom_id": "x", "url": "/v1/chat"}', "none"]).encode()
    packed = {"jsonl.gz": gzip.compress, "jsonl.zst": lambda content: pa.compress(content, "zstd", asbytes=True)}
    file = tmp_path / f"in.{kind}"
    file.write_bytes(packed.get(kind, bytes)(text))
    encode(file, "-o", tmp_path / "out", "--format", "openai")
    parts = sorted((tmp_path / "out").glob("part-*.jsonl"))
    found = [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]
    assert [one["custom_id"] for one in found] == [*(f"r{row}" for row in range(6)), "x", None]
    client = serve()
    for one, body in zip(found, bodies, strict=False):
        answer = client.post("/v1/embeddings", json=body)
        assert one["response"]["body"] == answer.json()
        assert one["response"]["status_code"] == answer.status_code
        assert one["error"] is None
    assert [one["response"]["body"]["error"]["param"] for one in found[6:]] == ["url", None]
    assert len((tmp_path / "out/errors.jsonl").read_text().splitlines()) == 5


def test_folders_of_partitions_are_columns(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """`day=3/kind=a%20b` gives each row below it a day and a kind, unless other columns are chosen."""
    for number, names in enumerate(("day=3/kind=a%20b", "day=4/kind=__HIVE_DEFAULT_PARTITION__")):
        (tmp_path / "in" / names).mkdir(parents=True)
        part = sequences[number * 8 : number * 8 + 8]
        write_parquet(tmp_path / "in" / names / "x.parquet", part, id=[*range(8)])
    encode(tmp_path / "in", "-o", tmp_path / "out")
    table = read_parts(tmp_path / "out")
    assert table.column_names == ["id", "day", "kind", "embedding"]
    assert table["day"].to_pylist() == ["3"] * 8 + ["4"] * 8
    assert table["kind"].to_pylist() == ["a b"] * 8 + [None] * 8
    encode(tmp_path / "in", "-o", tmp_path / "few", "--columns", "day")
    assert read_parts(tmp_path / "few").column_names == ["day", "embedding"]
    (tmp_path / "in/day=5").mkdir()
    write_parquet(tmp_path / "in/day=5/x.parquet", sequences)
    assert "it lies in ['day'], and the first file in ['day', 'kind']" in refuse(tmp_path / "in", "-o", tmp_path / "x")


def test_links_to_folders_are_not_followed(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """One that leads back would bring the same rows again, and again; links to files are read."""
    folder = tmp_path / "in/day=1"
    folder.mkdir(parents=True)
    write_parquet(folder / "a.parquet", sequences)
    (folder / "back").symlink_to(tmp_path / "in")
    (folder / "b.parquet").symlink_to(folder / "a.parquet")
    (folder / "c.parquet").symlink_to(folder / "gone.parquet")
    expected = [str(folder / "a.parquet"), str(folder / "b.parquet")]
    assert [one.path for one in find_inputs([str(tmp_path / "in")])] == expected
    assert [one.path for one in find_inputs([f"{tmp_path}/in/*/*.parquet"])] == expected
    assert [one.path for one in find_inputs([f"{folder}/*.parquet"])] == expected
