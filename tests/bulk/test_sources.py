"""What bulk reads: each kind of input gives the same rows, however it is cut into shards."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.bulk.command import encode, hash_folder, read_embeddings, read_parts, write_parquet


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
