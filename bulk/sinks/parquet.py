"""Parquet: the columns that are kept, and the outputs beside them."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.rows import Rows
from bulk.sinks.sink import Sink, refuse_twice

ROW_GROUP_BYTES = 100 * 2**20
LOOKS_AT_ONCE = 16  # for parts in a store, each of which takes a while to answer


class ParquetSink(Sink):
    """Parquet: the columns that are kept, and `embedding`, a list of D floats, null if the row has none."""

    suffix = ".parquet"

    def select_done(self, parts: list[int]) -> list[int]:
        """Return the parts that are done, of some that are there: their footers tell."""
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            return [number for number, done in zip(parts, pool.map(self.is_done, parts), strict=True) if done]

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

    def make(self, stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write a Parquet file whose footer names plan, model and shard."""
        table, outputs = self._keep_columns(rows), self._name_outputs(rows, encoded)
        refuse_twice(table.column_names, outputs)
        arrays = dict(zip(table.column_names, table.columns, strict=True)) | outputs
        whole = pa.table(arrays)
        if self.plan.options["on_error"] == "drop" and rows.errors:
            kept = np.ones(len(whole), bool)
            kept[[*rows.errors]] = False
            whole = whole.filter(pa.array(kept))
        whole = whole.replace_schema_metadata({"lengthwise": self._sign(number)})
        width = max(1, whole.nbytes // max(1, len(whole)))
        plain = [name for name in whole.column_names if name not in table.column_names]
        pq.write_table(
            whole,
            stream,
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
        count = len(encoded.embeddings)
        missing = np.zeros(count, bool)
        missing[[*rows.errors]] = True
        mask = pa.array(missing) if rows.errors else None
        arrays = {"embedding": _list_fixed(encoded.embeddings, mask)}
        if "steps" in self.plan.options["outputs"]:
            ends = np.concatenate([[0], np.cumsum([len(one) for one in encoded.steps])])
            flat = np.concatenate([np.empty((0, encoded.width), np.float32), *encoded.steps])
            arrays["steps"] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), _list_fixed(flat), mask=mask)
        for name, part in encoded.state.items():
            arrays[f"state_{name}"] = _list_fixed(part.reshape(count, math.prod(part.shape[1:])), mask)
        return arrays


def _list_fixed(rows: Any, mask: Any = None) -> Any:
    """Return `(n, D)` as an Arrow array of n lists of D float32."""
    numbers = np.ascontiguousarray(rows, np.float32)
    flat = pa.Array.from_buffers(pa.float32(), numbers.size, [None, pa.py_buffer(numbers)])  # copies nothing
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), rows.shape[1]), mask=mask)
