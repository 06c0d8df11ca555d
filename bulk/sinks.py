"""The parts of the output: one for each shard, under its final name only once it is whole.

A part that is done is never written again, and a part written twice at once is the same both times.
"""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.plan import NAME, Plan
from bulk.rows import Rows
from bulk.stores import Place
from service.api.problems import OPENAI, describe
from service.encoder.sequences import Answer

ROW_GROUP_BYTES = 100 * 2**20
PROBLEMS = "errors.jsonl"
DRAFT = re.compile(rf"\.(part-|{NAME}\.|{PROBLEMS}\.|embeddings\.).*")  # that killed programs leave
LOOKS_AT_ONCE = 16  # for parts in a store, each of which takes a while to answer
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class Sink(ABC):
    """Writes the parts of a plan."""

    suffix = ""

    def __init__(self, folder: Place, plan: Plan, dim: int, model: str) -> None:
        self.folder = folder
        self.plan = plan
        self.dim = dim
        self.model = model
        self.digest = plan.digest
        self._done: set[int] = set()

    def name(self, number: int) -> Place:
        """Return the final name of a part."""
        return self.folder / f"part-{number:05}{self.suffix}"

    def find_done(self) -> set[int]:
        """Find the parts that are done."""
        there = {file.name for file in self.folder.list_files()}
        parts = [n for n in range(len(self.plan.shards)) if n not in self._done and self.name(n).name in there]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            self._done.update(number for number, done in zip(parts, pool.map(self.is_done, parts), strict=True) if done)
        return self._done

    def is_done(self, number: int) -> bool:
        """Whether a part is there."""
        return self.name(number).exists

    def write(self, number: int, rows: Rows, encoded: Encoded, problems: list[dict[str, Any]]) -> None:
        """Write a part: its problems first, so that nobody finds the part without them."""
        if problems:
            (self.folder / f"part-{number:05}.errors").put(orjson.dumps(one) + b"\n" for one in problems)
        self.name(number).put([self.make(number, rows, encoded)])
        self._done.add(number)

    @abstractmethod
    def make(self, number: int, rows: Rows, encoded: Encoded) -> Any:
        """Return the bytes of a part."""


class ParquetSink(Sink):
    """Parquet: the columns that are kept, and `embedding`, a list of D floats, null if the row has none."""

    suffix = ".parquet"

    def is_done(self, number: int) -> bool:
        """Whether a part is there, and of this plan and model."""
        try:
            with self.name(number).open() as file:
                return bool((pq.read_metadata(file).metadata or {}).get(b"lengthwise") == self._sign(number).encode())
        except (FileNotFoundError, pa.ArrowException):
            return False
        except OSError as error:
            raise BulkError(f"{self.name(number)} cannot be read: {error}") from error

    def _sign(self, number: int) -> str:
        """Return what the footer of a part says."""
        return json.dumps({"plan": self.digest, "model": self.plan.model, "shard": number})

    def make(self, number: int, rows: Rows, encoded: Encoded) -> Any:
        """Return a Parquet file whose footer names plan, model and shard."""
        table = self._keep_columns(rows)
        arrays = dict(zip(table.column_names, table.columns, strict=True)) | self._name_outputs(rows, encoded)
        whole = pa.table(arrays)
        if self.plan.options["on_error"] == "drop" and rows.errors:
            kept = np.ones(len(rows.sequences), bool)
            kept[[*rows.errors]] = False
            whole = whole.filter(pa.array(kept))
        whole = whole.replace_schema_metadata({"lengthwise": self._sign(number)})
        width = max(1, whole.nbytes // max(1, len(whole)))
        plain = [name for name in whole.column_names if name not in table.column_names]
        file = pa.BufferOutputStream()
        pq.write_table(
            whole,
            file,
            row_group_size=max(1, ROW_GROUP_BYTES // width),
            use_dictionary=[name for name in whole.column_names if name not in plain],
            write_statistics=[name for name in whole.column_names if name not in plain],
        )
        return file.getvalue()

    def _keep_columns(self, rows: Rows) -> Any:
        if not isinstance(rows.columns, list):
            return pa.table({}) if rows.columns is None else rows.columns
        arrays = {}
        for name, kind in self.plan.options["types"].items():
            found = [row.get(name) for row in rows.columns]
            if kind == "json":
                found = [None if one is None else orjson.dumps(one).decode() for one in found]
            arrays[name] = pa.array(found, "string" if kind == "json" else kind)
        return pa.table(arrays)

    def _name_outputs(self, rows: Rows, encoded: Encoded) -> dict[str, Any]:
        count = len(rows.sequences)
        missing = np.zeros(count, bool)
        missing[[*rows.errors]] = True
        mask = pa.array(missing) if rows.errors else None
        arrays = {"embedding": _list_fixed(encoded.embeddings, mask)}
        if "steps" in self.plan.options["outputs"]:
            ends = np.concatenate([[0], np.cumsum([len(one) for one in encoded.steps])])
            width = encoded.steps[0].shape[1] if count else 0
            flat = np.concatenate(encoded.steps) if count else np.empty((0, width), np.float32)
            arrays["steps"] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), _list_fixed(flat), mask=mask)
        for name, part in encoded.state.items():
            arrays[f"state_{name}"] = _list_fixed(part.reshape(count, -1), mask)
        return arrays


class JsonSink(Sink):
    """JSON lines: `row`, what the row held besides, and `embedding`, null if the row has none."""

    suffix = ".jsonl"

    def make(self, number: int, rows: Rows, encoded: Encoded) -> bytes:
        """Return an object a row."""
        columns = [{}] * len(rows.sequences) if rows.columns is None else rows.columns
        columns = columns if isinstance(columns, list) else columns.to_pylist()
        start = self.plan.first_row(number)
        return b"".join(
            orjson.dumps(self._write_row(start + row, row, kept, rows, encoded), option=OPTIONS)
            for row, kept in enumerate(columns)
            if row not in rows.errors or self.plan.options["on_error"] != "drop"
        )

    def _write_row(
        self, number: int, row: int, kept: Mapping[str, Any], rows: Rows, encoded: Encoded
    ) -> dict[str, Any]:
        if row in rows.errors:
            return {"row": number, **kept, "embedding": None}
        told: dict[str, Any] = {"row": number, **kept, "embedding": encoded.embeddings[row]}
        if encoded.steps:
            told["steps"] = encoded.steps[row]
        if encoded.state:
            told["state"] = {name: part[row] for name, part in encoded.state.items()}
        return told


class BatchSink(Sink):
    """The answers to OpenAI's batch requests, one a line, refusals among them."""

    suffix = ".jsonl"

    def make(self, number: int, rows: Rows, encoded: Encoded) -> bytes:
        """Return an answer a line."""
        return b"".join(self._answer(self.plan.first_row(number), rows, encoded))

    def _answer(self, start: int, rows: Rows, encoded: Encoded) -> Iterator[bytes]:
        place = 0
        for row, asked in enumerate(rows.columns):
            stop = place + asked.count
            if asked.write is None:
                if self.plan.options["on_error"] == "drop":
                    continue
                problem = describe(rows.errors[row], "", OPENAI)
                status, body = problem.status, orjson.dumps(OPENAI.write(problem).model_dump())
            else:
                lengths = [*map(len, rows.sequences[place:stop])]
                answer = Answer(encoded.embeddings[place:stop], lengths=lengths, model=self.model)
                status, (body, _) = HTTPStatus.OK, asked.write(answer)
            name = f"batch_req_{start + row}"  # the same in every run
            response = {"status_code": int(status), "request_id": name, "body": orjson.Fragment(body)}
            yield orjson.dumps({"id": name, "custom_id": asked.name, "response": response, "error": None}) + b"\n"
            place = stop


class NumpySink(Sink):
    """One array `(rows, D)` in `embeddings.npy`, mapped into memory; a row without an embedding is NaN."""

    suffix = ".done"

    def __init__(self, folder: Place, plan: Plan, dim: int, model: str) -> None:
        super().__init__(folder, plan, dim, model)
        self._file = Path((folder / "embeddings.npy").path)
        if not self._file.exists():
            draft = self._file.with_name(f".embeddings.{secrets.token_hex(4)}.npy")
            np.lib.format.open_memmap(draft, "w+", np.float32, (plan.rows, dim))
            try:
                self._file.hardlink_to(draft)  # of several that start at once, one makes it
            except FileExistsError:
                pass
            finally:
                draft.unlink(missing_ok=True)

    def make(self, number: int, rows: Rows, encoded: Encoded) -> bytes:
        """Write rows of the array; the mark that they are there is empty."""
        found = encoded.embeddings.copy()
        found[[*rows.errors]] = np.nan
        if len(found):
            array = np.lib.format.open_memmap(self._file, "r+")
            start = self.plan.first_row(number)
            array[start : start + len(found)] = found
            array.flush()
        return b""


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

    What killed programs left half written is removed.

    Returns:
        How many problems there are.
    """
    files = sorted(folder.list_files(), key=lambda file: (len(file.name), file.name))
    for file in files:
        if DRAFT.fullmatch(file.name):
            file.remove()
    count = 0

    def read() -> Iterator[bytes]:
        nonlocal count
        for file in found:
            content = file.read()
            count += content.count(b"\n")
            yield content

    if found := [file for file in files if file.name.endswith(".errors")]:
        (folder / PROBLEMS).put(read())
    return count


def _list_fixed(rows: Any, mask: Any = None) -> Any:
    """Return `(n, D)` as an Arrow array of n lists of D float32."""
    numbers = np.ascontiguousarray(rows, np.float32)
    flat = pa.Array.from_buffers(pa.float32(), numbers.size, [None, pa.py_buffer(numbers)])  # copies nothing
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), rows.shape[1]), mask=mask)
