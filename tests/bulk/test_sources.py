"""What bulk reads: each kind of input gives the same rows, however it is cut into shards."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from bulk.plan import Shard
from bulk.sources import parquet, wanted
from bulk.sources.files import find_inputs, open_source
from bulk.sources.stream import Stream
from bulk.sources.wanted import Wanted
from bulk.stores import open_place
from service.encoder.sequences import Features, InputSpec
from service.settings import Settings
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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that were decoded from their beginning, in turn."""
    found: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def note(
        self: pq.ParquetFile, size: int, groups: list[int], columns: list[str], **flags: Any
    ) -> Iterator[pa.RecordBatch]:
        found.extend(groups)
        for batch in iter_batches(self, size, groups, columns, **flags):
            yield batch[:1]  # Arrow may end a batch where it likes
            yield batch[1:]

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    return found


def test_parts_of_a_row_group_are_read_on_from_where_the_last_one_ended(
    opened: list[int], sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those between are decoded once, whoever encodes them; only what lies before needs a new beginning."""
    monkeypatch.setattr(wanted, "SHARD_BYTES", 200)
    file = write_parquet(tmp_path / "in.parquet", sequences, 16)
    (one,) = find_inputs([str(file)])
    source = open_source(one, Wanted("sequence", None, InputSpec(Features(FEATURES)), Settings().limits))
    shards, start = [], 0
    for rows, first, last in source.survey():
        shards.append(Shard(0, start, rows, first, last))
        start += rows
    assert len(shards) > 3
    for number in (0, 2, len(shards) - 1, 1):
        shard = shards[number]
        found = source.read(shard).sequences
        for one_found, expected in zip(found, sequences[shard.start : shard.start + shard.rows], strict=True):
            np.testing.assert_array_equal(one_found, expected)
    assert opened == [0, 0]


def test_how_much_is_decoded_at_once_changes_no_byte(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row, or all rows; nor does it change what is kept of other columns."""
    names = [f"n{row % 3}" for row in range(16)]
    file = write_parquet(tmp_path / "in.parquet", sequences, 16, name=names, kind=pa.array(names).dictionary_encode())
    for size in (1, 2**20):
        monkeypatch.setattr(parquet, "BATCH_BYTES", size)
        encode(file, "-o", tmp_path / str(size))
    assert hash_folder(tmp_path / "1") == hash_folder(tmp_path / str(2**20))


def test_numbers_of_few_bits_in_the_file_count_as_they_lie_in_memory(tmp_path: Path) -> None:
    """A file of zeros is small, and cut into as many shards as one of other numbers."""
    shards = []
    for name, numbers in (("zeros", np.zeros), ("others", np.random.default_rng(1).random)):
        file = write_parquet(tmp_path / f"{name}.parquet", [*numbers((64, 9, FEATURES)).astype(np.float32)], 64)
        source = open_source(
            find_inputs([str(file)])[0], Wanted("sequence", None, InputSpec(Features(FEATURES)), Settings().limits)
        )
        shards.append(len([*source.survey()]))
    assert shards[0] >= 64 * 9 * FEATURES * 4 // 700
    assert shards[0] <= shards[1]


def test_a_share_is_neighbours(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """So a program reads its part of the files, not all of them; together they leave nothing out."""
    file = write_parquet(tmp_path / "in.parquet", sequences, 1)
    shares = []
    for place in range(3):
        encode(file, "-o", tmp_path / "out", "--shard", f"{place}/3")
        shares.append(sorted(path.name for path in (tmp_path / "out").glob("part*")))
    names = shares[-1]
    assert len(names) == len(json.loads((tmp_path / "out/plan.json").read_text())["shards"])
    assert 0 < len(shares[0]) < len(shares[1]) < len(names)
    for share in shares:
        assert share == names[: len(share)]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()])
def test_texts_may_be_categories_or_views(kind: pa.DataType, tmp_path: Path) -> None:
    """As pandas and others write them; the column is kept as it is."""
    model = take("texts", tmp_path / "texts.onnx")
    texts = pa.array(["so it goes", "it", "so it goes"])
    for name, column in (("plain", texts), ("other", texts.cast(kind))):
        pq.write_table(pa.table({"sequence": column, "text": column}), tmp_path / f"{name}.parquet")
        encode(tmp_path / f"{name}.parquet", "-o", tmp_path / name, "--model", model)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "other"), read_embeddings(tmp_path / "plain"))
    assert read_parts(tmp_path / "other")["text"].type == kind


@pytest.mark.parametrize("lists", [pa.list_, pa.large_list])
@pytest.mark.parametrize("number", [pa.float16(), pa.float64(), pa.int32()])
@pytest.mark.parametrize("width", [-1, FEATURES])
def test_lists_of_any_kind_and_numbers_hold_the_same(
    lists: Any, number: pa.DataType, width: int, tmp_path: Path
) -> None:
    """Also lists of one size, and among them rows, steps and numbers that are null."""
    rows = [[[1, 2, 3], [4, 5, 6]], None, [[7, 8, 9], None], [[7, None, 9]], [], [[7, 8, 9]]]
    for name, kind in (("in", lists(pa.list_(number, width))), ("plain", pa.list_(pa.list_(pa.float32())))):
        pq.write_table(pa.table({"sequence": pa.array(rows, kind)}), tmp_path / f"{name}.parquet")
        encode(tmp_path / f"{name}.parquet", "-o", tmp_path / name)
    assert read_parts(tmp_path / "in").equals(read_parts(tmp_path / "plain"))
    told = [json.loads(line) for line in (tmp_path / "in/errors.jsonl").read_text().splitlines()]
    assert [(one["row"], one["problem"]["path"]) for one in told] == [
        (1, "sequence"),
        (2, "sequence[1]"),
        (3, "sequence[0][0][1]"),
        (4, "sequence[0]"),
    ]


def test_a_token_id_that_is_null_is_a_bad_row(tmp_path: Path) -> None:
    """It is told by its place, and nothing warns of a number that is none."""
    ids = pa.array([[1, 2], [3, None], None, [4]], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"sequence": ids}), tmp_path / "in.parquet")
    encode(tmp_path / "in.parquet", "-o", tmp_path / "out", "--model", take("tokens", tmp_path / "tokens.onnx"))
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [(one["row"], one["problem"]["path"]) for one in told] == [(1, "sequence[0][1]"), (2, "sequence")]
    assert "is the token id -1" in told[0]["problem"]["detail"]


def test_a_compressed_file_that_ends_too_early_is_told(tmp_path: Path) -> None:
    """It was cut off since the plan was made, and what should come is not waited for."""
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(b"a text"))
    with pytest.raises(OSError, match="ends too early"):
        Stream(open_place(tmp_path / "in.txt.gz")).read(10, 20)


def test_what_engines_keep_beside_the_data_is_not_read(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Names that begin with `_` or `.`, of files or folders: logs, drafts, what an archive adds."""
    folder = tmp_path / "in"
    for name in ("_delta_log/1.checkpoint.parquet", "_temporary/0/x.parquet", "._a.parquet", "day=1/.b.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something else")
    write_parquet(folder / "day=1/a.parquet", sequences)
    assert [one.path for one in find_inputs([str(folder)])] == [str(folder / "day=1/a.parquet")]


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
