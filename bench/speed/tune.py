"""Finds the settings with which a peer is fastest on this machine: to choose for it would be unfair.

Workers and batches are tried first, then how long a batch may wait. Single sequences and requests of 32 may want other
settings; both are kept then.
"""

from dataclasses import replace
from pathlib import Path

from bench.load.servers import Server, Unavailable, start
from bench.speed.measure import DrawnWorkload, Figures, load_server, warm_up, write_requests
from service.costs.cpus import available_cpus

BATCHES, WAITS_MS = (8, 16, 32), (0, 1, 2)
JUDGES = ("S", "B")  # the workloads that are to be fast
SECONDS = 1.0


def find_fastest(peer: Server, python: Path, model: Path, workloads: list[DrawnWorkload]) -> list[Server]:
    """Return a peer with the settings that are fastest for each judge, named by them; without one if none answers."""
    judges = [drawn for drawn in workloads if drawn.name in JUDGES]
    found: dict[Server, Figures] = {}
    _try(list_arrangements(peer), python, model, judges, found)
    _try([one for server in _choose(found, judges) for one in list_waits(server)], python, model, judges, found)
    return [replace(server, name=name_settings(server)) for server in _choose(found, judges)]


def list_arrangements(peer: Server) -> list[Server]:
    """List a peer with one worker, with half as many as CPUs and with a worker a CPU, and batches of every size."""
    cpus = available_cpus()
    workers = sorted({1, max(1, cpus // 2), cpus})
    return [replace(peer, workers=number, batch=rows, wait_ms=1) for number in workers for rows in BATCHES]


def list_waits(server: Server) -> list[Server]:
    """List a server with every time that its batches may wait."""
    return [replace(server, wait_ms=wait) for wait in WAITS_MS]


def name_settings(server: Server) -> str:
    """Name a server by its settings."""
    return f"{server.name}, workers {server.workers}, batch {server.batch}, wait {server.wait_ms} ms"


def _try(
    servers: list[Server], python: Path, model: Path, judges: list[DrawnWorkload], found: dict[Server, Figures]
) -> None:
    """Measure the servers that are not in `found`, and put them there; one that fails has no figures."""
    for server in servers:
        if server in found:
            continue
        found[server] = {}
        first = write_requests(judges[0], server.wire)[0]
        try:
            with start(server, python, model, first, model.with_suffix(".log")) as running:
                for drawn in judges:
                    warm_up(running, server.wire, drawn, 0.0)
                    found[server] |= load_server(running, server.wire, drawn, SECONDS)
        except (Unavailable, OSError):
            continue


def _choose(found: dict[Server, Figures], judges: list[DrawnWorkload]) -> list[Server]:
    """Return the fastest for each judge, each server once."""
    able = {
        server: figures for server, figures in found.items() if all(f"{one.name}.rate" in figures for one in judges)
    }
    if not able:
        return []
    best = [max(able, key=lambda server: able[server][f"{drawn.name}.rate"]) for drawn in judges]
    return list(dict.fromkeys(best))
