"""`python -m bench scale`: sequences a second by CPUs, ours, the peers' and the raw limit's.

Everything, the load generator too, is held to 1, 2, 4, ... and then all of the CPUs that this process may use, in the
kernel's order. A cell is the throughput, with the load generator's share of the CPU time behind it. Prints one table a
model, and ends with one JSON line; with `--plots`, it draws one figure a model.
"""

import argparse
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.load.drive import name_generator
from bench.load.launch import make_models
from bench.load.servers import MOSEC, OURS, OURS_BINARY, PEERS, Server, Unavailable, add_processes
from bench.load.workloads import MODELS
from bench.speed.measure import DrawnWorkload, Figures, Pace, draw_workloads, measure_raw, measure_server
from bench.speed.plot import draw_lines
from bench.speed.report import align, compare, spell
from bench.speed.service import note, prepare, tune
from service.costs.cpus import available_cpus

PANELS = {"S": "Single sequences", "B": "32 in a request"}
SERVERS = [OURS, OURS_BINARY, *(peer for peer in PEERS if peer.workers is None and peer.is_json)]
CONNECTIONS_A_CPU = {"S": 4, "B": 2}  # at least; few CPUs have as many as in `bench service`

Scaling = dict[int, dict[str, Figures]]  # by CPUs, by server; the raw limit is a server, too


def list_counts(most: int) -> list[int]:
    """Return 1, 2, 4, ... and the most."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


@contextmanager
def hold_to(number: int) -> Iterator[None]:
    """Let this thread, and whatever it starts, use so many of the CPUs that it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def widen(drawn: DrawnWorkload, cpus: int) -> DrawnWorkload:
    """Return a workload with enough connections for so many CPUs."""
    return replace(drawn, connections=max(drawn.workload.connections, CONNECTIONS_A_CPU[drawn.name] * cpus))


def measure_scaling(
    model: Path, pythons: dict[Server, Path], counts: list[int], pace: Pace, *, is_tuned: bool
) -> tuple[Scaling, dict[str, str]]:
    """Measure every server on so many CPUs.

    Returns:
        The figures, and why some are missing.
    """
    found: Scaling = {}
    missing: dict[str, str] = {}
    whole = draw_workloads(model, PANELS)
    for cpus in counts:
        with hold_to(cpus):
            workloads = [widen(drawn, available_cpus()) for drawn in whole]
            found[cpus] = {"raw": measure_raw(model, workloads, pace)[0]}
            able = tune(pythons, model, workloads) if is_tuned else pythons
            for server, python in able.items():
                note(f"{model.stem} on {cpus} CPUs: {server.name}")
                try:
                    figures = measure_server(server, python, model, workloads, pace)
                except (Unavailable, OSError) as error:
                    missing[f"{server.name} on {cpus} CPUs"] = str(error)
                else:
                    found[cpus][server.name] = figures
    return found, missing


def gather(scaling: Scaling, workload: str) -> dict[str, dict[int, float]]:
    """Return throughput by server and CPUs; of a peer with several settings, the fastest."""
    lines: dict[str, dict[int, float]] = {}
    for cpus, servers in scaling.items():
        for name, figures in servers.items():
            if f"{workload}.rate" in figures:
                line = lines.setdefault(shorten(name), {})
                line[cpus] = max(line.get(cpus, 0.0), figures[f"{workload}.rate"])
    return lines


def shorten(name: str) -> str:
    """Leave the settings out of a name: they differ from one number of CPUs to the next."""
    return MOSEC.name if name.startswith(MOSEC.name) else name


def render(model: str, scaling: Scaling, missing: dict[str, str]) -> str:
    """Write the table of one model, and the ratios below it."""
    lines = []
    for workload, heading in PANELS.items():
        rows = [["", *(f"{cpus} CPUs" for cpus in scaling)]]
        names = dict.fromkeys(name for servers in scaling.values() for name in servers)
        rows += [[name, *(_write_cell(scaling[cpus].get(name, {}), workload) for cpus in scaling)] for name in names]
        lines += [f"{model}, {heading.lower()}, sequences/s:", *align(rows), ""]
    for cpus, servers in scaling.items():
        ratios, refused = compare(servers)
        said = [f"{spell(name)} {value:.2f}" for name, value in ratios.items()]
        lines.append(f"{cpus} CPUs: ratio " + ", ".join(said))
        lines += [f"{cpus} CPUs: ratio {spell(name)}: refused: {reason}" for name, reason in refused.items()]
    lines += [f"{name}: not measured: {reason}" for name, reason in missing.items()]
    return "\n".join(lines)


def _write_cell(figures: Figures, workload: str) -> str:
    if f"{workload}.rate" not in figures:
        return "-"
    share = figures.get(f"{workload}.generator")
    return f"{figures[f'{workload}.rate']:,.0f}" + ("" if share is None else f" {share:4.0%}")


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--peers", nargs="*", metavar="WORD", help="parts of their names; all if not given")
    parser.add_argument("--cpus", nargs="+", type=int, help="in place of 1, 2, 4, ... and all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--tune", action=argparse.BooleanOptionalAction, default=True, help="mosec, for each number")
    add_processes(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of environments and models; .bench")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write scale-MODEL.svg there")
    options = parser.parse_args(arguments)
    counts = options.cpus or list_counts(available_cpus())
    if max(counts) > available_cpus():
        parser.error(f"--cpus asks for {max(counts)}, and there are {available_cpus()}")
    folder = options.folder.resolve()
    asked = [one for one in SERVERS if one.peer is None or _is_asked(one, options.peers)]
    pythons, missing = prepare([_arrange(server, options.processes) for server in asked], folder)
    make_models(folder / "models")
    pace = Pace(rounds=1, seconds=options.seconds, warm_seconds=0.5, raw_seconds=0.4)
    document: dict[str, object] = {"bench": "scale", "generator": name_generator(), "machine": platform.machine()}
    for name in options.models:
        model = folder / "models" / f"{name}.onnx"
        scaling, failed = measure_scaling(model, pythons, counts, pace, is_tuned=options.tune)
        print(render(name, scaling, missing | failed), end="\n\n", flush=True)
        document[name] = scaling
        if options.plots:
            options.plots.mkdir(parents=True, exist_ok=True)
            size = MODELS[name]
            title = f"{name}: {size.features} features, {size.hidden} units, sequences/s by CPUs"
            panels = {heading: gather(scaling, workload) for workload, heading in PANELS.items()}
            svg = draw_lines(title, "sequences/s", panels, OURS.name)
            (options.plots / f"scale-{name}.svg").write_text(svg, encoding="utf-8")
    print(json.dumps(document))


def _is_asked(server: Server, words: list[str] | None) -> bool:
    return words is None or any(word.lower() in server.name.lower() for word in words)


def _arrange(server: Server, processes: str) -> Server:
    return replace(server, processes=processes) if server.peer is None else server
