"""The parts of the output: one for each shard, under its final name only once it is whole.

A part that is there is never written again, and a part written twice at once is the same both times.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bulk.encoder import Encoded
from bulk.plan import NAME, Plan
from bulk.rows import Rows
from service.api.problems import OPENAI, describe
from service.encoder.sequences import Answer

ROW_GROUP_BYTES = 100 * 2**20
PROBLEMS = "errors.jsonl"
DRAFTS = (".part-*", f".{NAME}.*", f".{PROBLEMS}.*", ".embeddings.*.npy")  # that killed programs leave
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Sink(ABC):
    """Writes the parts of a plan."""

    suffix = ""

    def __init__(self, folder: Path, plan: Plan, dim: int, model: str) -> None:
        self.folder = folder
        self.plan = plan
        self.dim = dim
        self.model = model

    def name(self, number: int) -> Path:
        """Return the final name of a part."""
        return self.folder / f"part-{number:05}{self.suffix}"

    def is_done(self, number: int) -> bool:
        """Whether a part is there."""
        return self.name(number).exists()

    def write(self, number: int, rows: Rows, encoded: Encoded, problems: list[dict[str, Any]]) -> None:
        """Write a part: its problems first, so that nobody finds the part without them."""
        draft = self.folder / f".{self.name(number).name}.{os.getpid()}"
        try:
            if problems:
                self._put(
                    self.folder / f"part-{number:05}.errors", b"".join(orjson.dumps(one) + b"\n" for one in problems)
                )
            self.save(draft, number, rows, encoded)
            _sync(draft)
            draft.replace(self.name(number))
        except FileNotFoundError:
            if not self.is_done(number):  # another program wrote it too, and cleared up after all were done
                raise

    @abstractmethod
    def save(self, draft: Path, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write a part to a draft."""

    def _put(self, path: Path, content: bytes) -> None:
        draft = self.folder / f".{path.name}.{os.getpid()}"
        draft.write_bytes(content)
        _sync(draft)
        draft.replace(path)


class ParquetSink(Sink):
    """Parquet: the columns that are kept, and `embedding`, a list of D floats, null if the row has none."""

    suffix = ".parquet"

    def save(self, draft: Path, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write a Parquet file whose footer names plan, model and shard."""
        table = self._keep_columns(rows)
        arrays = dict(zip(table.column_names, table.columns, strict=True)) | self._name_outputs(rows, encoded)
        whole = pa.table(arrays)
        if self.plan.options["on_error"] == "drop" and rows.errors:
            kept = np.ones(len(rows.sequences), bool)
            kept[[*rows.errors]] = False
            whole = whole.filter(pa.array(kept))
        said = {"plan": self.plan.digest, "model": self.plan.model, "shard": number}
        whole = whole.replace_schema_metadata({"lengthwise": json.dumps(said)})
        width = max(1, whole.nbytes // max(1, len(whole)))
        plain = [name for name in whole.column_names if name not in table.column_names]
        pq.write_table(
            whole,
            draft,
            row_group_size=max(1, ROW_GROUP_BYTES // width),
            use_dictionary=[name for name in whole.column_names if name not in plain],
            write_statistics=[name for name in whole.column_names if name not in plain],
        )

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

    def save(self, draft: Path, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write an object a row."""
        columns = [{}] * len(rows.sequences) if rows.columns is None else rows.columns
        columns = columns if isinstance(columns, list) else columns.to_pylist()
        start = self.plan.first_row(number)
        with draft.open("wb") as file:
            for row, kept in enumerate(columns):
                if row in rows.errors and self.plan.options["on_error"] == "drop":
                    continue
                file.write(orjson.dumps(self._write_row(start + row, row, kept, rows, encoded), option=OPTIONS) + b"\n")

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

    def save(self, draft: Path, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write an answer a line."""
        start, place = self.plan.first_row(number), 0
        with draft.open("wb") as file:
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
                line = {"id": name, "custom_id": asked.name, "response": response, "error": None}
                file.write(orjson.dumps(line) + b"\n")
                place = stop


class NumpySink(Sink):
    """One array `(rows, D)` in `embeddings.npy`, mapped into memory; a row without an embedding is NaN."""

    suffix = ".done"

    def __init__(self, folder: Path, plan: Plan, dim: int, model: str) -> None:
        super().__init__(folder, plan, dim, model)
        self._file = folder / "embeddings.npy"
        if not self._file.exists():
            draft = folder / f".embeddings.{os.getpid()}.npy"
            np.lib.format.open_memmap(draft, "w+", np.float32, (plan.rows, dim))
            try:
                os.link(draft, self._file)  # of several that start at once, one makes it
            except FileExistsError:
                pass
            finally:
                draft.unlink(missing_ok=True)

    def save(self, draft: Path, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write rows of the array, and an empty draft for the mark that they are there."""
        found = encoded.embeddings.copy()
        found[[*rows.errors]] = np.nan
        if len(found):
            array = np.lib.format.open_memmap(self._file, "r+")
            start = self.plan.first_row(number)
            array[start : start + len(found)] = found
            array.flush()
        draft.touch()


KINDS: dict[str, type[Sink]] = {"parquet": ParquetSink, "jsonl": JsonSink, "npy": NumpySink, "openai": BatchSink}


def open_sink(folder: Path, plan: Plan, dim: int, model: str) -> Sink:
    """Return what writes the parts of a plan.

    Args:
        folder: to write to; the plan is in it.
        plan: of all parts; its options say of what kind they are.
        dim: D, the numbers in an embedding.
        model: the model's name.
    """
    return KINDS[plan.options["format"]](folder, plan, dim, model)


def finish(folder: Path, plan: Plan) -> int:
    """Once all parts are there, write their problems into one file, in the order of the rows.

    What killed programs left half written is removed.

    Returns:
        How many problems there are.
    """
    for pattern in DRAFTS:
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)
    count = 0
    draft = folder / f".{PROBLEMS}.{os.getpid()}"
    with draft.open("wb") as file:
        for number in range(len(plan.shards)):
            part = folder / f"part-{number:05}.errors"
            if part.exists():
                content = part.read_bytes()
                count += content.count(b"\n")
                file.write(content)
    with suppress(FileNotFoundError):  # another program has just done the same, and cleared up
        if count:
            draft.replace(folder / PROBLEMS)
        else:
            draft.unlink()
    return count


def _list_fixed(rows: Any, mask: Any = None) -> Any:
    """Return `(n, D)` as an Arrow array of n lists of D float32."""
    flat = pa.array(np.ascontiguousarray(rows).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), rows.shape[1]), mask=mask)


def _sync(path: Path) -> None:
    """See that what was written outlives the machine's power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
