"""`python -m bench ledger`: what each layer costs one plain JSON `POST /encode`, in instructions.

callgrind, from Debian's package valgrind, counts the instructions of the service's own process, so that the figures are
the same on a busy machine: a request through a socket, the application without one, the engine, the codec, and the run
of ONNX Runtime alone. What a layer takes is what is left once the layers below it are taken off. Kernel time is not in
it, and ONNX Runtime takes its AVX2 kernels, since valgrind knows no AVX-512. Without valgrind only the bytecodes of
Python are counted, function by function, which tell nothing of what runs in C. Prints tables and ends with one JSON
line; takes two minutes on a quiet machine.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load.generator import ask, run_number
from bench.load.launch import make_models
from bench.load.servers import find_port
from bench.load.workloads import JSON, MODELS, draw_sequences
from bench.speed.bytecodes import count_bytecodes
from bench.speed.counted import FEW, MANY, WARM, choose_lengths, tell_callgrind

START_SECONDS = 300.0  # under callgrind, on a busy machine
TRIGGER = re.compile(r"desc: Trigger: dump (\w+):(\d+)")

# The layers, outermost first: what is counted with it, and what of that belongs to layers below.
LAYERS = {
    "uvicorn, protocol, transport": ("socket", ("application",)),
    "front, encoding, answer": ("application", ("engine", "decode", "write")),
    "codec: body to array": ("decode", ()),
    "codec: array to body": ("write", ()),
    "engine: queue, cut, pad, hand back": ("engine", ("run",)),
    "run of ONNX Runtime": ("run", ()),
}


def command(valgrind: str, counts: Path, *words: str) -> list[str]:
    """Return what runs `counted` under callgrind, which writes its counts to files whose names begin as `counts`."""
    callgrind = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}"]
    return [*callgrind, sys.executable, "-m", "bench.speed.counted", *words]


def count_inside(valgrind: str, model: Path, sequences: int, folder: Path) -> None:
    """Count the layers in one process.

    Raises:
        RuntimeError: it failed; carries what it wrote.
    """
    words = command(valgrind, folder / "inside", "layers", str(model), str(sequences))
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"the layers could not be counted: {ran.stderr[-2000:]}")


def count_outside(valgrind: str, model: Path, sequences: int, folder: Path) -> None:
    """Count whole requests of the service, one after the other through a socket."""
    request = JSON.write(draw_sequences(choose_lengths(sequences), MODELS[model.stem].features, seed=0))
    port = find_port()
    flags = ["--model", str(model), "--port", str(port), "--processes", "1", "--log-level", "warning"]
    with _run(command(valgrind, folder / "outside", "service", *flags)) as process:
        _await_ready(process, port, request)
        tell_callgrind(process.pid, "instrumentation", "on")
        for number in (WARM, FEW, MANY):
            tell_callgrind(process.pid, "zero")
            found = run_number(port, [request], 1, number)
            if len(found.latencies) != number:
                raise RuntimeError(f"requests failed: {found.failures}")
            tell_callgrind(process.pid, "dump", f"socket:{number}")


@contextmanager
def _run(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], port: int, request: bytes) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode} under callgrind")
        try:
            if ask(port, request)[0] == "200":
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the service was not ready in {START_SECONDS:.0f} s under callgrind")


def read_counts(folder: Path) -> dict[str, Counter[str]]:
    """Return what one call of each name takes: instructions by the library they are in."""
    found: dict[str, dict[int, Counter[str]]] = {}
    for file in folder.glob("*.*"):
        text = file.read_text(encoding="utf-8", errors="replace")
        if trigger := TRIGGER.search(text):
            number = int(trigger[2])
            known = found.setdefault(trigger[1], {}).get(number)
            counts = read_dump(text)
            # The first of two with one number warmed up, and had more to do.
            if known is None or counts.total() < known.total():
                found[trigger[1]][number] = counts
    return {
        name: Counter({library: (many - by[FEW][library]) // (MANY - FEW) for library, many in by[MANY].items()})
        for name, by in found.items()
    }


def read_dump(text: str) -> Counter[str]:
    """Add up the instructions of a callgrind file by library; what a called function took is counted with itself."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    library, is_call = "", False
    for line in text.splitlines():
        if line.startswith("ob="):
            number, _, name = line[3:].partition(" ")
            library = names.setdefault(number, Path(name).name) if name else names[number]
        elif line.startswith("cob="):
            number, _, name = line[4:].partition(" ")
            names.setdefault(number, Path(name).name)
        elif line.startswith("calls="):
            is_call = True
        elif line[:1] in "0123456789+-*" and line:
            if not is_call:
                counts[library] += int(line.split()[-1])
            is_call = False
    return counts


def print_layers(counts: dict[str, Counter[str]]) -> dict[str, int]:
    """Print the ledger, and return it."""
    whole = counts["socket"].total()
    ledger = {
        layer: counts[name].total() - sum(counts[below].total() for below in inside)
        for layer, (name, inside) in LAYERS.items()
    }
    print(f"{'layer':36}{'instructions':>14}{'of all':>8}")
    for layer, instructions in ledger.items():
        print(f"{layer:36}{instructions:14,}{instructions / whole:8.1%}")
    print(f"{'all':36}{whole:14,}\n")
    print(f"{'library, in all layers':36}{'instructions':>14}{'of all':>8}")
    for library, instructions in counts["socket"].most_common(12):
        print(f"{library:36}{instructions:14,}{instructions / whole:8.1%}")
    return ledger


def print_bytecodes(found: Counter[tuple[str, str]], number: int) -> dict[str, int]:
    """Print bytecodes by package and by function, and return the former."""
    packages: Counter[str] = Counter()
    for (package, _), bytecodes in found.items():
        packages[package] += bytecodes
    whole = found.total()
    print(f"\n{'package':44}{'bytecodes':>10}{'of all':>8}")
    for package, bytecodes in packages.most_common():
        print(f"{package:44}{bytecodes:10,}{bytecodes / whole:8.1%}")
    print(f"\n{'function':60}{'bytecodes':>10}")
    for (package, function), bytecodes in found.most_common(number):
        print(f"{package + ': ' + function:60}{bytecodes:10,}")
    return dict(packages)


def main(arguments: list[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="python -m bench ledger", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--sequences", type=int, choices=range(1, 65), metavar="N", default=1, help="of a request")
    parser.add_argument("--functions", type=int, default=25, help="of Python that are listed")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    model = folder / "models" / f"{options.model}.onnx"
    if not model.exists():
        make_models(model.parent)
    os.environ |= {"PYTHONHASHSEED": "0", "LENGTHWISE_CACHE_DIR": str(folder / "cache")}
    calibrate = [sys.executable, "-m", "service", "calibrate", "--model", str(model), "--processes", "1"]
    subprocess.run(calibrate, check=True, stdout=subprocess.DEVNULL)  # or what is slow here would be measured
    document: dict[str, object] = {"bench": "ledger", "model": options.model, "sequences": options.sequences}
    document["python"] = platform.python_version()
    if valgrind := shutil.which("valgrind"):
        with tempfile.TemporaryDirectory() as counts:
            count_inside(valgrind, model, options.sequences, Path(counts))
            count_outside(valgrind, model, options.sequences, Path(counts))
            document["instructions"] = print_layers(read_counts(Path(counts)))
    else:
        print("valgrind is not installed, so that instructions are not counted")
    found = asyncio.run(count_bytecodes(model, options.sequences))
    document["bytecodes"] = print_bytecodes(found, options.functions)
    print(json.dumps(document))
