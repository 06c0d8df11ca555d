"""Programs that encode a file as people write them today, and ONNX Runtime alone; `bench bulk` starts each.

`python -m bench.speed.today NAME FILE MODEL OUT` prints one JSON line: seconds after its imports, and CPU seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.load.workloads import Embeddings, Steps
from bench.speed.raw import Feed, feed, measure_throughput, open_raw
from service.costs.cpus import available_cpus

ROWS = 32  # in a batch, the default of sentence-transformers and of most recipes
RAW_SEQUENCES, RAW_SECONDS, RAW_PASSES = 20_000, 1.0, 3


def read_all(file: Path) -> list[Steps]:
    """Read all sequences into memory."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            values, lengths = arrays["values"], arrays["lengths"]
        return np.split(values, np.cumsum(lengths)[:-1])
    return to_arrays(pq.read_table(file, columns=["sequence"])["sequence"].combine_chunks())


def to_arrays(lists: Any) -> list[Steps]:
    """Return a column of lists of lists as arrays."""
    steps = lists.flatten()
    width = len(steps.flatten()) // max(1, len(steps))
    values = steps.flatten().to_numpy().reshape(-1, width)
    ends = np.cumsum(lists.value_lengths().to_numpy())
    return np.split(values, ends[:-1])


def write(embeddings: Embeddings, out: Path) -> None:
    """Write embeddings as Parquet."""
    flat = pa.array(embeddings.ravel())
    pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])}), out)


def encode_in_order(sequences: Iterable[Steps], model: Path) -> Embeddings:
    """Encode batches of neighbours, one after the other, each on all CPUs."""
    session, found, batch = open_raw(model, available_cpus()), [], []
    for steps in sequences:
        batch.append(steps)
        if len(batch) == ROWS:
            found.append(session.run(["embedding"], feed(batch))[0])
            batch = []
    if batch:
        found.append(session.run(["embedding"], feed(batch))[0])
    return np.concatenate(found)


def arrival(file: Path, model: Path, out: Path) -> None:
    """Read everything, encode batches in the order of the file, write."""
    write(encode_in_order(read_all(file), model), out)


def in_memory(file: Path, model: Path, out: Path) -> None:
    """Read everything, sort it by length, encode, sort back, write: as sentence-transformers does."""
    sequences = read_all(file)
    order = np.argsort([-len(steps) for steps in sequences], kind="stable")
    embeddings = encode_in_order((sequences[place] for place in order), model)
    back = np.empty_like(embeddings)
    back[order] = embeddings
    write(back, out)


def ray_data(file: Path, model: Path, out: Path) -> None:
    """Encode by Ray Data's `map_batches`, one session an actor, an actor a CPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # noqa: PLC0415 - it is an extra

    class Encode:
        """An actor's session."""

        def __init__(self) -> None:
            self._session = open_raw(model, 1)

        def __call__(self, table: Any) -> Any:
            found = self._session.run(["embedding"], feed(to_arrays(table["sequence"].combine_chunks())))[0]
            flat = pa.array(found.ravel())
            return pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, found.shape[1])})

    ray.init("local", num_cpus=available_cpus() + 1, include_dashboard=False, log_to_driver=False)
    data = ray.data.read_parquet(str(file))
    options = {"batch_size": ROWS, "batch_format": "pyarrow", "num_cpus": 1, "concurrency": available_cpus()}
    data.map_batches(Encode, **options).write_parquet(str(out))


def raw(file: Path, model: Path, _out: Path) -> dict[str, Any]:
    """Run ONNX Runtime on sorted batches that are padded beforehand, in its best arrangement, a few times."""
    sequences = sorted(read_all(file)[:RAW_SEQUENCES], key=len, reverse=True)
    _, best = measure_throughput(model, sequences, RAW_SECONDS)
    session = open_raw(model, best.threads)
    batches = [feed(sequences[first : first + best.rows]) for first in range(0, len(sequences), best.rows)]

    def run(batch: Feed) -> None:
        session.run(["embedding"], batch)

    with ThreadPoolExecutor(best.runners) as pool:
        list(pool.map(run, batches))
        began, spent = time.perf_counter(), time.process_time()
        for _number in range(RAW_PASSES):
            list(pool.map(run, batches))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
    count = RAW_PASSES * len(sequences)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "sequences": count, "arrangement": str(best)}


PROGRAMS: dict[str, Callable[[Path, Path, Path], dict[str, Any] | None]] = {
    "raw": raw,
    "in-memory": in_memory,
    "arrival": arrival,
    "ray-data": ray_data,
}

if __name__ == "__main__":
    name, *paths = sys.argv[1:]
    began, spent = time.perf_counter(), time.process_time()
    told = PROGRAMS[name](*map(Path, paths)) or {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - spent,
    }
    print(json.dumps(told))
