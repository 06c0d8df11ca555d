"""Picks the kind of output, and clears up once all parts are there."""

import re
from collections.abc import Iterator

from bulk.plan import NAME, PART, Plan
from bulk.sinks.array import NumpySink
from bulk.sinks.lines import BatchSink, JsonSink
from bulk.sinks.parquet import ParquetSink
from bulk.sinks.sink import Sink
from bulk.stores import Place

PROBLEMS = "errors.jsonl"
DRAFT = re.compile(rf"\.(part-|{NAME}\.|{PROBLEMS}\.|embeddings\.).*")  # that killed programs leave

KINDS: dict[str, type[Sink]] = {"parquet": ParquetSink, "jsonl": JsonSink, "npy": NumpySink, "openai": BatchSink}


def open_sink(folder: Place, plan: Plan, dim: int, model: str) -> Sink:
    """Return what writes the parts of a plan.

    Args:
        folder: to write to; the plan is in it.
        plan: of all parts; its options say of what kind they are.
        dim: D, the numbers in an embedding.
        model: the model's name.
    """
    return KINDS[plan.options["format"]](folder, plan, dim, model)


def finish(folder: Place) -> int:
    """Once all parts are there, write their problems into one file, in the order of the rows.

    What killed programs left half written is removed after that, since another program may be writing that file, too.

    Returns:
        How many problems there are.
    """
    files = sorted(folder.list_files(), key=lambda file: (len(file.name), file.name))
    count = 0

    def read() -> Iterator[bytes]:
        nonlocal count
        for file in found:
            content = file.read()
            count += content.count(b"\n")
            yield content

    if found := [file for file in files if PART.fullmatch(file.name) and file.name.endswith(".errors")]:
        (folder / PROBLEMS).put(read())
    for file in files:
        if DRAFT.fullmatch(file.name):
            file.remove()
    return count
