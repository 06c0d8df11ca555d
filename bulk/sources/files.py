"""Lists the files that are meant, picks the source of each, and cuts it into shards.

| files | what holds the sequences | a shard is |
|---|---|---|
| `.parquet`, or a folder of them | a column of lists of lists of numbers, of ids, or texts | row groups, or a part |
| `.jsonl`, `.ndjson` | one object a line, with such a list or text; or one of OpenAI's batch requests | lines |
| `.csv` | a step a line: `id`, `order`, and a column a feature, or `token`; or a text a line | lines |
| `.txt` | a text a line | lines |
| `.npz` | `values` and `lengths`, as `POST /encode` takes them | rows |
| `.npy` | `(n, T, F)`, or `(n, T)` of token ids: n sequences of one length | rows |
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from bulk.mistakes import BadInput
from bulk.plan import Input, Shard
from bulk.sources.arrays import ArraySource
from bulk.sources.batch import BatchSource
from bulk.sources.lines import LineSource
from bulk.sources.parquet import ParquetSource
from bulk.sources.stream import COMPRESSED
from bulk.sources.table import TableSource
from bulk.sources.wanted import Source, Wanted

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


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
        partitions = [read_partitions(file.relative_to(path).parent) if path.is_dir() else {} for file in files]
        for file, values in zip(files, partitions, strict=True):
            if [*values] != [*partitions[0]]:
                raise BadInput(file, f"it lies in {[*values]}, and the first file in {[*partitions[0]]}")
            try:
                status = file.stat()
            except OSError as error:
                raise BadInput(file, error.strerror or str(error)) from None
            found.append(Input(str(file), status.st_size, status.st_mtime_ns, values))
    return found


def read_partitions(folder: Path) -> dict[str, str | None]:
    """Return the columns that the names of folders are, as Hive writes them: `day=3/kind=a`."""
    pairs = [part.split("=", 1) for part in folder.parts if "=" in part]
    return {unquote(name): None if value == NO_VALUE else unquote(value) for name, value in pairs}


def open_source(one: Input, wanted: Wanted) -> Source:
    """Return what reads a file, by its name.

    Raises:
        BadInput: its name says nothing that is known.
    """
    name = Path(one.path)
    suffixes = [suffix for suffix in name.suffixes if suffix not in COMPRESSED]
    match suffixes[-1:]:
        case [".jsonl" | ".ndjson"]:
            return BatchSource(name, wanted) if wanted.is_batch else LineSource(name, wanted, is_text=False)
        case _ if wanted.is_batch:
            raise BadInput(name, "--format openai reads requests, which are .jsonl (also .gz or .zst)")
        case [".parquet"]:
            return ParquetSource(name, wanted, one.partitions)
        case [".csv"]:
            return TableSource(name, wanted)
        case [".txt"]:
            return LineSource(name, wanted, is_text=True)
        case [".npz" | ".npy"]:
            return ArraySource(name, wanted)
    lines = ".jsonl, .ndjson, .csv, .txt (all four also .gz or .zst)"
    raise BadInput(name, f"it is none of .parquet, {lines}, .npz and .npy")


def make_shards(inputs: Sequence[Input], wanted: Wanted) -> list[Shard]:
    """Cut inputs into shards of some 16 MB.

    Raises:
        BadInput: one cannot be read.
    """
    shards: list[Shard] = []
    for number, one in enumerate(inputs):
        start = 0
        for rows, first, last in open_source(one, wanted).survey():
            shards.append(Shard(number, start, rows, first, last))
            start += rows
    return shards
