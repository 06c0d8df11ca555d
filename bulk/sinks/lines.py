"""JSON lines, and the answers to OpenAI's batch requests."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import orjson
import pyarrow as pa

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.rows import Rows
from bulk.sinks.sink import Sink, refuse_twice
from service.api.problems import OPENAI, describe
from service.encoder.sequences import Answer

OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class JsonSink(Sink):
    """JSON lines: `row`, what the row held besides, and `embedding`, null if the row has none."""

    suffix = ".jsonl"

    def make(self, stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write an object a row.

        Raises:
            BulkError: a column holds what JSON cannot.
        """
        try:
            self._write(stream, number, rows, encoded)
        except (TypeError, ValueError) as error:
            name = find_unwritable(rows.columns)
            reason = f"{name!r} holds {rows.columns[name].type}, which JSON lines cannot hold ({error})"
            raise BulkError(f"{reason}: leave it out with --columns, or choose --format parquet") from error

    def _write(self, stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        columns = [{}] * len(encoded.embeddings) if rows.columns is None else rows.columns
        columns = columns if isinstance(columns, list) else shorten_times(columns).to_pylist()
        start = self.starts[number]
        for row, kept in enumerate(columns):
            if row not in rows.errors or self.plan.options["on_error"] != "drop":
                told = self._describe(start + row, row, kept, rows, encoded)
                stream.write(orjson.dumps(told, option=OPTIONS))

    def _describe(self, number: int, row: int, kept: Mapping[str, Any], rows: Rows, encoded: Encoded) -> dict[str, Any]:
        refuse_twice(kept, ("row", *self.plan.options["outputs"]))
        if row in rows.errors:
            return {"row": number, **kept, "embedding": None}
        told: dict[str, Any] = {"row": number, **kept, "embedding": encoded.embeddings[row]}
        if encoded.steps:
            told["steps"] = encoded.steps[row]
        if encoded.state:
            told["state"] = {name: part[row] for name, part in encoded.state.items()}
        return told


def shorten_times(columns: pa.Table) -> pa.Table:
    """Return a table whose times are in microseconds, as Python's are; pandas writes nanoseconds.

    Raises:
        ArrowInvalid: a time is not a whole number of them.
    """
    for place, column in enumerate(columns.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            shorter = columns.column(place).cast(pa.timestamp("us", column.type.tz))
            columns = columns.set_column(place, column.name, shorter)
    return columns


def find_unwritable(columns: Any) -> str:
    """Return the first of a table's columns that JSON cannot hold."""

    def is_unwritable(name: str) -> bool:
        try:
            orjson.dumps(shorten_times(columns.select([name]))[name].to_pylist())
        except (TypeError, ValueError):
            return True
        return False

    name: str = next(filter(is_unwritable, columns.column_names))
    return name


class BatchSink(Sink):
    """The answers to OpenAI's batch requests, one a line, refusals among them."""

    suffix = ".jsonl"

    def make(self, stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write an answer a line."""
        for line in self._answer(self.starts[number], rows, encoded):
            stream.write(line)

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
                lengths = encoded.lengths[place:stop].tolist()
                answer = Answer(encoded.embeddings[place:stop], lengths=lengths, model=self.model)
                status, (body, _) = HTTPStatus.OK, asked.write(answer)
            name = f"batch_req_{start + row}"  # the same in every run
            response = {"status_code": int(status), "request_id": name, "body": orjson.Fragment(body)}
            yield orjson.dumps({"id": name, "custom_id": asked.name, "response": response, "error": None}) + b"\n"
            place = stop
