"""`python -m bench workers`: the service with one worker, with more, and with as many as it chooses by itself.

For each number of workers: single sequences and 32 in a request (JSON) under load, the latency of a lone request of 32,
and the memory that a worker has to itself under load, which is what one more of them takes. Rounds are taken in turn;
a cell is the median. Ends with one JSON line.
"""

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from bench.load.drive import name_generator
from bench.load.launch import make_models
from bench.load.servers import OURS, Running, find_family, start
from bench.load.workloads import MODELS
from bench.speed.measure import DrawnWorkload, Figures, draw_workloads, load_server, warm_up, write_requests
from bench.speed.report import align
from bench.speed.service import note
from service.costs.cpus import available_cpus

WARM_SECONDS = 0.5
LONE = "lone B"
COLUMNS = {
    "S.rate": "S, sequences/s",
    "S.p99_ms": "S, p99 in ms",
    "B.rate": "B, sequences/s",
    f"{LONE}.p50_ms": "a lone request of 32, p50 in ms",
    "own_mb": "a worker's own memory, MB",
    "shared_mb": "all other memory, MB",
}


def measure_number(model: Path, workloads: list[DrawnWorkload], processes: str, seconds: float) -> Figures:
    """Start the service with so many workers, and measure it."""
    server = replace(OURS, processes=processes)
    figures: Figures = {}
    first = write_requests(workloads[0], server.wire)[0]
    with start(server, server.prepare(model.parent), model, first, model.with_suffix(".log")) as running:
        for drawn in workloads:
            warm_up(running, server.wire, drawn, WARM_SECONDS)
            found = load_server(running, server.wire, drawn, seconds)
            is_lone = drawn.name == "B" and drawn.in_flight == 1
            figures |= {name.replace("B.", f"{LONE}.") if is_lone else name: value for name, value in found.items()}
            figures |= {} if is_lone else weigh(running)
    return figures


def weigh(running: Running) -> Figures:
    """Return the memory that each worker has to itself, on average, and what is left, each page counted once."""
    first, *others = [_read_memory(pid) for pid in find_family(running.process.pid)]
    workers = others or [first]
    own = statistics.fmean(private for private, _ in workers)
    whole = sum(fair for _, fair in (first, *others))
    return {"workers": len(workers), "own_mb": own / 1e3, "shared_mb": (whole - own * len(workers)) / 1e3}


def _read_memory(pid: int) -> tuple[int, int]:
    """Return the kB that a process has to itself, and its fair part of all that it uses."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    found = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return found["Private_Clean"] + found["Private_Dirty"], found["Pss"]


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench workers", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--processes", nargs="+", help="of the service; if not given, 1, one a CPU and auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    numbers = options.processes or list(dict.fromkeys(["1", str(available_cpus()), "auto"]))
    folder = options.folder.resolve() / "models"
    make_models(folder)
    document: dict[str, object] = {"bench": "workers", "cpus": available_cpus(), "generator": name_generator()}
    for name in options.models:
        model = folder / f"{name}.onnx"
        workloads = draw_workloads(model, ("S", "B"))
        workloads.append(replace(workloads[-1], connections=1))
        rounds: dict[str, list[Figures]] = defaultdict(list)
        for number in range(options.rounds):
            for processes in numbers:
                note(f"{name}, round {number + 1}: {processes}")
                rounds[processes].append(measure_number(model, workloads, processes, options.seconds))
        medians = {
            processes: {column: statistics.median(one[column] for one in found) for column in ("workers", *COLUMNS)}
            for processes, found in rounds.items()
        }
        print(render(name, medians), end="\n\n", flush=True)
        document[name] = medians
    print(json.dumps(document))


def render(name: str, medians: dict[str, Figures]) -> str:
    """Write the table of one model."""
    rows = [["processes", "workers", *COLUMNS.values()]]
    for processes, found in medians.items():
        rows.append([processes, f"{found['workers']:.0f}", *(f"{found[column]:,.2f}" for column in COLUMNS)])
    return "\n".join([f"{name}:", *align(rows)])


if __name__ == "__main__":
    main()
