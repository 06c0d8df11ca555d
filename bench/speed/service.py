"""`python -m bench service`: our service, its peers and the raw limit, on one machine in one run.

Prints one table a model and ends with one JSON line. Servers run one at a time, each peer right after our service,
round by round; figures are medians over rounds. wrk loads them if it is installed. mosec is measured with the settings
that a first search finds fastest, and is named by them.
"""

import argparse
import json
import platform
import signal
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from bench.load.drive import name_generator
from bench.load.launch import make_models
from bench.load.servers import ALONE, MOSEC, OURS, OURS_BINARY, PEERS, Server, Unavailable, add_processes
from bench.load.workloads import MODELS, WORKLOADS
from bench.speed.measure import DrawnWorkload, Pace, draw_workloads, measure_raw, measure_server
from bench.speed.plot import draw_bars
from bench.speed.report import Results, compare, render
from bench.speed.start import measure_starts
from bench.speed.tune import find_fastest
from service.costs.cpus import available_cpus
from service.settings import SHIPPED_MODEL

FULL = Pace(rounds=3, seconds=2.0, warm_seconds=0.5, raw_seconds=0.4)
QUICK = Pace(rounds=1, seconds=0.6, warm_seconds=0.3, raw_seconds=0.1)
SERVERS = [OURS, OURS_BINARY, ALONE, *PEERS]
PANELS = {"S.rate": "Single sequences, 32 at a time", "B.rate": "32 in a request", "mix.rate": "Lengths 1 to 2,000"}


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line names."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))  # by way of every server's own end
    pace = QUICK if options.quick else FULL
    pace = replace(pace, rounds=options.rounds or pace.rounds)
    pythons, missing = prepare(options.servers, options.folder)
    folder = options.folder / "models"
    make_models(folder)
    every = []
    for name in options.models:
        results = Results(name, missing=dict(missing), generator=name_generator())
        model = folder / f"{name}.onnx"
        workloads = draw_workloads(model)
        able = pythons if options.quick else tune(pythons, model, workloads)
        asked = [drawn for drawn in workloads if drawn.name in options.workloads]
        measure_model(results, model, able, asked, pace, is_quick=options.quick)
        print(render(results), end="\n\n", flush=True)
        every.append(results)
    start = measure_starts(SHIPPED_MODEL, starts=3, requests=300)
    print("the shipped encoder:", ", ".join(f"{name} {value:g}" for name, value in start.items()))
    if options.plots:
        write_plots(every, options.plots)
    machine = {"cpus": available_cpus(), "machine": platform.machine()}
    versions = {"python": platform.python_version(), "onnxruntime": version("onnxruntime")}
    document = {"bench": "service", "rounds": pace.rounds, "seconds": pace.seconds, **machine, **versions}
    print(json.dumps({**document, "start": start, "models": {one.model: summarize(one) for one in every}}))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; `models` and `servers` are what `--only` leaves of them."""
    parser = argparse.ArgumentParser(prog="python -m bench service", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, about two minutes")
    parser.add_argument("--rounds", type=int, help="3 by default")
    names = ", ".join([*MODELS, *(server.name for server in SERVERS)])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help=f"models and servers, by part of: {names}"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS], help="all by default")
    add_processes(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of environments and models; .bench")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write bench-MODEL.svg there")
    options = parser.parse_args(arguments)
    words = [word.lower() for word in options.only]
    servers = [server for server in SERVERS if any(word in server.name.lower() for word in words)]
    models = [name for name in MODELS if name in words]
    unknown = [
        word for word in words if word not in MODELS and not any(word in server.name.lower() for server in SERVERS)
    ]
    if unknown:
        parser.error(f"--only knows none of: {', '.join(unknown)}. It knows parts of: {names}")
    ours = {server: replace(server, processes=options.processes) for server in (OURS, OURS_BINARY)}
    options.servers = [ours.get(server, server) for server in servers or SERVERS]
    options.models = models or list(MODELS)
    options.folder = options.folder.resolve()
    return options


def prepare(servers: list[Server], folder: Path) -> tuple[dict[Server, Path], dict[str, str]]:
    """Install the servers that are not installed yet.

    Returns:
        The interpreter of each that can be started, and why the others cannot, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pythons, missing = {}, {}
    for server in servers:
        note(f"preparing {server.name}")
        try:
            pythons[server] = server.prepare(folder)
        except Unavailable as error:
            missing[server.name] = str(error)
    return pythons, missing


def tune(pythons: dict[Server, Path], model: Path, workloads: list[DrawnWorkload]) -> dict[Server, Path]:
    """Put the settings with which mosec is fastest on a model in its place."""
    if MOSEC not in pythons:
        return pythons
    note(f"{model.stem}: searching for the fastest settings of {MOSEC.name}")
    tuned = find_fastest(MOSEC, pythons[MOSEC], model, workloads) or [MOSEC]
    others = {server: python for server, python in pythons.items() if server != MOSEC}
    return others | dict.fromkeys(tuned, pythons[MOSEC])


def measure_model(
    results: Results,
    model: Path,
    pythons: dict[Server, Path],
    workloads: list[DrawnWorkload],
    pace: Pace,
    *,
    is_quick: bool,
) -> None:
    """Measure every server on one model, round by round, into `results`.

    A server that fails is not started again; what it gave before stands, with the reason.
    """
    for number in range(pace.rounds):
        raw, results.arrangements = measure_raw(model, workloads, pace)
        results.raw.append(raw)
        for place, server in enumerate(plan_round(list(pythons), is_quick=is_quick)):
            if server.name in results.missing:
                continue
            note(f"{results.model}, round {number + 1} of {pace.rounds}: {server.name}")
            is_open = server.name == OURS.name and place == 0
            try:
                figures = measure_server(server, pythons[server], model, workloads, pace, is_open=is_open)
            except (Unavailable, OSError) as error:
                results.missing[server.name] = str(error)
            else:
                results.rounds.setdefault(server.name, []).append(figures)


def plan_round(servers: list[Server], *, is_quick: bool) -> list[Server]:
    """Order a round: our service before each peer, so that both see the same machine; just once if it is quick."""
    ours = [server for server in servers if server.name == OURS.name]
    others = [server for server in servers if server.name != OURS.name]
    if is_quick or not others or not ours:
        return servers
    return [server for other in others for server in (*ours, other)]


def summarize(results: Results) -> dict[str, object]:
    """Return everything a table says, and the arrangements, as JSON values."""
    medians = results.medians()
    rounded = {name: {key: float(f"{value:.4g}") for key, value in one.items()} for name, one in medians.items()}
    found, refused = compare(medians)
    ratios = {name: round(value, 3) for name, value in found.items()}
    return {
        "servers": rounded,
        "ratios": ratios,
        "refused": refused,
        "arrangements": results.arrangements,
        "missing": results.missing,
        "generator": results.generator,
    }


def write_plots(every: list[Results], folder: Path) -> None:
    """Write the throughput of every server as one SVG a model."""
    folder.mkdir(parents=True, exist_ok=True)
    for results in every:
        medians = results.medians()
        panels = {
            heading: {name: figures[key] for name, figures in medians.items() if key in figures}
            for key, heading in PANELS.items()
        }
        size = MODELS[results.model]
        title = f"{results.model}: {size.features} features, {size.hidden} units, {available_cpus()} CPUs"
        svg = draw_bars(title, "sequences/s", panels, OURS.name)
        (folder / f"bench-{results.model}.svg").write_text(svg, encoding="utf-8")


def note(text: str) -> None:
    """Tell the person who waits; the figures alone go to standard output."""
    print(text, file=sys.stderr, flush=True)
