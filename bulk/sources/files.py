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
from fnmatch import fnmatchcase
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
from bulk.stores import open_place

JSON_LINES = ".jsonl", ".ndjson"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def find_inputs(names: Sequence[str]) -> list[Input]:
    """List the files that are meant: those given or matched, and of a folder all Parquet files in it, by their names.

    Raises:
        BadInput: one is not there, or a folder holds none.
    """
    inputs = []
    for name in names:
        folder, pattern = split_pattern(name)
        place = open_place(folder)
        found = place.find("" if pattern else ".parquet", recursive=not pattern or "/" in pattern)
        found = [one for one in found if (matches(one[0], pattern) if pattern else is_shown(one[0]))]
        if not found:
            raise BadInput(name, "it matches no file" if pattern else "it is a folder without *.parquet")
        first = read_partitions(found[0][0])
        for file, size, modified_ns in found:
            path = place / file if file else place
            values = read_partitions(file)
            if [*values] != [*first]:
                raise BadInput(path, f"it lies in {[*values]}, and the first file in {[*first]}")
            inputs.append(Input(str(path), size, modified_ns, values))
    return inputs


def split_pattern(name: str) -> tuple[str, str]:
    """Cut a name before its first part with a `*`; what is cut off is empty if there is none, or such a file is there.

    The shell fills in patterns of this machine's files, unless they are quoted, but not those of a store.
    """
    if "*" not in name or ("://" not in name and open_place(name).exists):
        return name, ""
    path, mark, query = name.partition("?")
    start = path.rfind("/", 0, path.index("*")) + 1
    return (path[:start] or ".") + mark + query, path[start:]


def matches(name: str, pattern: str) -> bool:
    """Whether a name within a folder is one that a pattern means; `*` is any text without a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def is_shown(name: str) -> bool:
    """Whether a file within a folder is data: others begin with `_` or `.`, or lie in such folders, as Spark has it."""
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


def read_partitions(file: str) -> dict[str, str | None]:
    """Return the columns that the names of a file's folders are, as Hive writes them: `day=3/kind=a`."""
    pairs = [part.split("=", 1) for part in file.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == NO_VALUE else unquote(value) for name, value in pairs}


def find_kind(one: Input) -> str:
    """Return the suffix that says what a file holds, compressed or not; empty if it has none."""
    suffixes = [suffix for suffix in open_place(one.path).suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def open_source(one: Input, wanted: Wanted) -> Source:
    """Return what reads a file, by its name.

    Raises:
        BadInput: its name says nothing that is known.
    """
    name = open_place(one.path)
    match find_kind(one):
        case kind if kind in JSON_LINES:
            return BatchSource(name, wanted) if wanted.is_batch else LineSource(name, wanted, is_text=False)
        case _ if wanted.is_batch:
            raise BadInput(name, "--format openai reads requests, which are .jsonl (also .gz or .zst)")
        case ".parquet":
            return ParquetSource(name, wanted, one.partitions)
        case ".csv":
            return TableSource(name, wanted)
        case ".txt":
            return LineSource(name, wanted, is_text=True)
        case ".npz" | ".npy":
            return ArraySource(name, wanted)
    lines = ".jsonl, .ndjson, .csv, .txt (all four also .gz or .zst)"
    raise BadInput(name, f"it is none of .parquet, {lines}, .npz and .npy")


def require_same(one: Input) -> None:
    """Refuse a file of this machine that was written anew since the plan was made: its shards are of the old one.

    Raises:
        BadInput: it was, or it has gone.
    """
    place = open_place(one.path)
    if place.is_local and place.find("") != [("", one.bytes, one.modified_ns)]:
        raise BadInput(place, "it was written anew since the plan was made: encode into another folder")


def make_shards(inputs: Sequence[Input], wanted: Wanted) -> list[Shard]:
    """Cut inputs into shards of some 16 MB; without any row, there is one of none, so that there is a part to open.

    Raises:
        BadInput: one cannot be read.
    """
    shards: list[Shard] = []
    for number, one in enumerate(inputs):
        start = 0
        for rows, first, last in open_source(one, wanted).survey():
            shards.append(Shard(number, start, rows, first, last))
            start += rows
    return shards or [Shard(0, 0, 0, 0, 0)]
