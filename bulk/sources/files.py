"""Lists the files that are meant, picks the source of each, and cuts it into shards.

| files | what holds the sequences | a shard is |
|---|---|---|
| `.parquet`, or a folder of them | a column of lists of lists of numbers, of lists of ids, or of texts | row groups |
| `.jsonl`, `.ndjson` | one object a line, with such a list or text | lines |
| `.txt` | a text a line | lines |
| `.npz` | `values` and `lengths`, as `POST /encode` takes them | rows |
| `.npy` | `(n, T, F)`, or `(n, T)` of token ids: n sequences of one length | rows |
"""

from collections.abc import Sequence
from pathlib import Path

from bulk.mistakes import BadInput
from bulk.plan import Input, Shard
from bulk.sources.arrays import ArraySource
from bulk.sources.lines import COMPRESSED, LineSource
from bulk.sources.parquet import ParquetSource
from bulk.sources.wanted import Source, Wanted


def find_inputs(paths: Sequence[Path]) -> list[Input]:
    """List the files that are meant: those given, and of a folder all Parquet files in it, by their names.

    Raises:
        BadInput: one is not there, or a folder holds none.
    """
    found = []
    for path in paths:
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise BadInput(path, "it is a folder without *.parquet")
        for file in files:
            try:
                status = file.stat()
            except OSError as error:
                raise BadInput(file, error.strerror or str(error)) from None
            found.append(Input(str(file), status.st_size, status.st_mtime_ns))
    return found


def open_source(path: str, wanted: Wanted) -> Source:
    """Return what reads a file, by its name.

    Raises:
        BadInput: its name says nothing that is known.
    """
    name = Path(path)
    suffixes = [suffix for suffix in name.suffixes if suffix not in COMPRESSED]
    match suffixes[-1:]:
        case [".parquet"]:
            return ParquetSource(name, wanted)
        case [".jsonl" | ".ndjson"]:
            return LineSource(name, wanted, is_text=False)
        case [".txt"]:
            return LineSource(name, wanted, is_text=True)
        case [".npz" | ".npy"]:
            return ArraySource(name, wanted)
    raise BadInput(path, "it is none of .parquet, .jsonl, .ndjson, .txt (all three also .gz or .zst), .npz and .npy")


def make_shards(inputs: Sequence[Input], wanted: Wanted) -> list[Shard]:
    """Cut inputs into shards of some 16 MB.

    Raises:
        BadInput: one cannot be read.
    """
    shards: list[Shard] = []
    for number, one in enumerate(inputs):
        start = 0
        for rows, first, last in open_source(one.path, wanted).survey():
            shards.append(Shard(number, start, rows, first, last))
            start += rows
    return shards
