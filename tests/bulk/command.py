"""What the tests of bulk share: inputs to write, the command to call, and its output to read."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.__main__ import main
from bulk.stores import Place
from tests.conftest import MADE

LENGTHS = [5, 1, 9, 2, 2, 7, 3, 30, 1, 4, 6, 8, 2, 5, 3, 3]


def write_parquet(path: Path, sequences: list[npt.NDArray[np.float32]], rows: int = 4, **columns: Any) -> Path:
    """Write sequences as lists of lists, so many rows in a group."""
    lists = pa.array([steps.tolist() for steps in sequences], pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({**columns, "sequence": lists}), path, row_group_size=rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write an object a line, compressed if the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def encode(*arguments: object) -> int:
    """Call the command, and return how it ended."""
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(MADE), "--quiet", *map(str, arguments)])
    if isinstance(ended.value.code, str):
        pytest.fail(ended.value.code)
    return int(ended.value.code or 0)


def refuse(*arguments: object) -> str:
    """Call the command, and return the sentence it ends with."""
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(MADE), "--quiet", *map(str, arguments)])
    assert isinstance(ended.value.code, str)
    return ended.value.code


def read_parts(out: Path) -> pa.Table:
    """Read all parts in their order."""
    return pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])


def read_embeddings(out: Path) -> npt.NDArray[np.float32]:
    """Return the embeddings of all parts, `(n, D)`."""
    return np.stack(read_parts(out)["embedding"].to_numpy())


def hash_folder(out: Path) -> dict[str, str]:
    """Hash what is in a folder; a draft would be a fault."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def upload(source: Path, place: Place) -> Place:
    """Copy a file or a folder of files."""
    for file in [source] if source.is_file() else sorted(source.rglob("*.*")):
        (place if source.is_file() else place / str(file.relative_to(source))).put([file.read_bytes()])
    return place


def download(place: Place, folder: Path) -> Path:
    """Copy the files of a folder, without those in folders of it."""
    folder.mkdir()
    for file in place.list_files():
        (folder / file.name).write_bytes(file.read())
    return folder
