"""`python -m bench bulk`: bulk beside the raw limit and beside what people write today.

For each model, files of sequences of log-normal length are encoded by programs of their own, in turn. Prints, for each
round, sequences a second as a share of what ONNX Runtime alone gave in that round, the same by CPU seconds (which say
more on a busy machine) without those of its start, and the most memory that it held. Ends with one JSON line.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.load.launch import make_models, start_service
from bench.load.watch import Watch
from bench.load.workloads import MODELS, draw_lengths
from service.costs.cpus import available_cpus

PIECE = 10_000  # sequences that are drawn at once, and that a row group holds
WATCH_SECONDS = 0.02  # between two looks at a program's memory
SHORT_STEPS, SHORT_TIMES = 19, (1, 10, 100)  # of the check of memory: the most steps, and times as many sequences


@dataclass(frozen=True, slots=True)
class Spent:
    """What a program took.

    Attributes:
        sequences: how many it encoded.
        seconds: to do so, without its start.
        whole_seconds: from its start to its end.
        cpu_seconds: of all CPUs, without what its start took if that is known.
        peak_mb: the most memory it held, in 10^6 bytes.
        own_mb: the most of its own that it was seen to hold, without pages of files, such as libraries.
    """

    sequences: int
    seconds: float
    whole_seconds: float
    cpu_seconds: float
    peak_mb: float
    own_mb: float

    @property
    def rate(self) -> float:
        """Sequences a second."""
        return self.sequences / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Sequences a CPU second."""
        return self.sequences / self.cpu_seconds


def draw(lengths: list[int], features: int) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Yield lengths and steps `(S, F)` in pieces."""
    source = np.random.default_rng(2)
    for first in range(0, len(lengths), PIECE):
        part = np.array(lengths[first : first + PIECE], np.int32)
        yield part, source.standard_normal((int(part.sum()), features), dtype=np.float32)


def write_npz(path: Path, lengths: list[int], features: int) -> None:
    """Write sequences as `POST /encode` takes them, a piece in memory at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (sum(lengths), features)}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("values.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _, values in draw(lengths, features):
                file.write(values.tobytes())
        with archive.open("lengths.npy", "w") as file:
            np.lib.format.write_array(file, np.array(lengths, np.int64))


def write_parquet(path: Path, lengths: list[int], features: int) -> None:
    """Write sequences as lists of lists, and an id, a piece in memory at a time."""
    schema = pa.schema({"id": pa.int64(), "sequence": pa.list_(pa.list_(pa.float32()))})
    with pq.ParquetWriter(path, schema) as writer:
        for number, (part, values) in enumerate(draw(lengths, features)):
            widths = np.arange(0, values.size + 1, features, dtype=np.int32)
            steps = pa.ListArray.from_arrays(pa.array(widths), pa.array(values.ravel()))
            lists = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(part)).astype(np.int32)), steps)
            writer.write_table(pa.table([pa.array(np.arange(len(part)) + number * PIECE), lists], schema=schema))


def start(command: list[str], sequences: int) -> Spent:
    """Run a program to its end, and read what it says of itself; its memory and CPU time are the kernel's figures."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=said, stderr=said)
        peak_mb, own_mb, ended = 0.0, 0.0, 0
        while not ended:
            time.sleep(WATCH_SECONDS)
            peak_mb = max(peak_mb, read_mb(process.pid, "VmHWM"))
            own_mb = max(own_mb, read_mb(process.pid, "RssAnon"))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - began
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    cpu = usage.ru_utime + usage.ru_stime
    told: dict[str, Any]
    last = text.strip().rpartition("\n")[2]
    if found := re.search(r" rows in ([\d.,]+) s, ", last):
        told = {"seconds": float(found[1].replace(",", "")), "cpu_seconds": cpu}
    else:
        told = json.loads(last)
    return Spent(told.get("sequences", sequences), told["seconds"], whole, told["cpu_seconds"], peak_mb, own_mb)


def read_mb(pid: int, field: str) -> float:
    """Return what the kernel says of a process's memory, 0 if it has ended; `ru_maxrss` would count its parent's, too.

    Args:
        pid: of the process.
        field: `VmHWM` for the most that it has held, `RssAnon` for what it holds now without pages of files.
    """
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def list_programs(folder: Path, model: Path, url: str) -> dict[str, list[str]]:
    """Name the programs that are measured, and their commands; `OUT` stands for a new folder or file.

    The one that asks a service at `url` is charged for its own CPU seconds only, not for the service's.
    """
    npz, parquet = str(folder / "in.npz"), str(folder / "in.parquet")
    programs = {
        "raw limit": ["bench.speed.today", "raw", npz, str(model), "OUT"],
        "bulk npz": ["bulk", npz, "-o", "OUT", "--model", str(model), "--quiet"],
        "bulk parquet": ["bulk", parquet, "-o", "OUT", "--model", str(model), "--quiet"],
        "sorted in memory": ["bench.speed.today", "in-memory", parquet, str(model), "OUT"],
        "in order, 32s": ["bench.speed.today", "arrival", parquet, str(model), "OUT"],
    }
    programs["bulk --url"] = ["bulk", parquet, "-o", "OUT", "--url", url, "--quiet"]
    if find_spec("ray"):
        programs["Ray Data"] = ["bench.speed.today", "ray-data", parquet, str(model), "OUT"]
    return programs


def start_bulk(command: list[str], sequences: int) -> Spent:
    """Run bulk as `start` does, and take off the CPU seconds of a run that only plans."""
    planned = start([*command, "--limit", "0"], 0)
    whole = start(command, sequences)
    return replace(whole, cpu_seconds=max(1e-9, whole.cpu_seconds - planned.cpu_seconds))


def measure(model: Path, features: int, sequences: int, rounds: int, only: list[str]) -> dict[str, list[Spent]]:
    """Run every program in turn, or only the raw limit and some, so many times."""
    lengths = draw_lengths(sequences, None, seed=1)
    found: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_npz(folder / "in.npz", lengths, features)
        write_parquet(folder / "in.parquet", lengths, features)
        for number in range(rounds):
            with start_service("--model", str(model)) as (_, url):
                for name, command in list_programs(folder, model, url).items():
                    if only and name not in ("raw limit", *only):
                        continue
                    run = start_bulk if command[0] == "bulk" else start
                    with tempfile.TemporaryDirectory() as out:
                        filled = [f"{out}/{number}" if part == "OUT" else part for part in command]
                        found.setdefault(name, []).append(run(filled, sequences))
                        sys.stderr.write(f"{model.stem}, {name}: {found[name][-1].rate:,.0f} sequences/s\n")
    return found


def compare_memory(model: Path, features: int, sequences: int) -> dict[int, dict[str, float]]:
    """Return the most memory, in 10^6 bytes, of bulk over few short sequences and over many times as many."""
    found = {}
    for count in (sequences * times for times in SHORT_TIMES):
        lengths = np.random.default_rng(1).integers(1, SHORT_STEPS, count, endpoint=True).tolist()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "in.parquet"
            write_parquet(file, lengths, features)
            command = ["bulk", str(file), "-o", f"{folder}/out", "--model", str(model), "--quiet"]
            spent = start(command, count)
            found[count] = {"peak_mb": round(spent.peak_mb, 1), "own_mb": round(spent.own_mb, 1)}
    return found


def describe(name: str, spent: list[Spent], raw: list[Spent]) -> dict[str, float]:
    """Summarise rounds of a program by their medians; shares are of the raw limit of the same round."""
    pairs = list(zip(spent, raw, strict=True))
    told = {
        "sequences_per_second": round(statistics.median(one.rate for one in spent), 1),
        "of_raw": round(statistics.median(one.rate / limit.rate for one, limit in pairs), 3),
        "of_raw_by_cpu": round(statistics.median(one.cpu_rate / limit.cpu_rate for one, limit in pairs), 3),
        "whole_seconds": round(statistics.median(one.whole_seconds for one in spent), 2),
        "peak_mb": round(max(one.peak_mb for one in spent), 1),
        "own_mb": round(max(one.own_mb for one in spent), 1),
    }
    print(f"{name:18}" + "".join(f"{value:15,}" for value in told.values()))
    return told


def main(arguments: list[str] | None = None) -> None:
    """Measure each model, then memory, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m bench bulk", description=__doc__)
    parser.add_argument("--models", type=Path, help="a folder that `bench models` wrote; written anew by default")
    parser.add_argument("--sequences", type=int, default=200_000)
    parser.add_argument("--model", choices=[*MODELS], action="append", help="one of those; all by default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--program", action="append", default=[], help="one of those, beside the raw limit; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the sequences")
    options = parser.parse_args(arguments)
    sequences = options.sequences // 50 if options.quick else options.sequences
    watch, found = Watch(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.models or Path(temporary)
        if options.models is None:
            make_models(folder)
        for name in options.model or MODELS:
            size = MODELS[name]
            spent = measure(folder / f"{name}.onnx", size.features, sequences, options.rounds, options.program)
            heads = ("sequences/s", "of raw", "by CPU s", "s", "MB", "own MB")
            print(f"{name + f', {sequences:,}':18}" + "".join(f"{head:>15}" for head in heads))
            found[name] = {key: describe(key, some, spent["raw limit"]) for key, some in spent.items()}
        memory = compare_memory(folder / "small.onnx", MODELS["small"].features, sequences // 10)
    others = watch.others_share([])
    for count, held in memory.items():
        print(f"{count:,} short sequences: {held['peak_mb']:,.0f} MB, of which {held['own_mb']:,.0f} are its own")
    print(f"{available_cpus()} CPUs, others took {others:.0%} of the machine")
    print(json.dumps({"bench": "bulk", "sequences": sequences, "models": found, "memory": memory, "others": others}))
