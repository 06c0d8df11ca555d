"""`python -m bench schedule`: how fast the queue is alone, and how much the batches it cuts pad.

No encoder runs: the costs are those of a made model, and a run is over as soon as it has started. 256 sequences of
log-normal length (median 33, at most 200) wait at all times. Prints a table and ends with one JSON line.
"""

import argparse
import json
import math
import statistics
import time

import numpy as np

from service.batching.jobs import Job
from service.batching.queue import Bounds
from service.batching.sharing import Queues
from service.costs.model import CostModel

WAITING = 256


def measure_queue(sequences: int, per_job: int) -> dict[str, float]:
    """Queue and start sequences as fast as possible.

    Args:
        sequences: how many.
        per_job: sequences in each job.

    Returns:
        `sequences_per_second`, `padding_ratio` (padded over valid steps) and `rows` (of the mean batch).
    """
    # As measured for an LSTM of 12 features and 64 units: a fixed part, and one for each step that grows with the rows.
    shapes = [(rows, steps) for rows in (1, 2, 4, 8, 16, 32) for steps in (1, 32, 256)]
    costs = CostModel({(rows, steps): 2e-5 + steps * (8e-7 + 1e-6 * rows) for rows, steps in shapes}, 32)
    queues = Queues(2)
    queue = queues.open(costs, Bounds(max_batch_steps=16_384, max_queue_steps=1_000_000))
    drawn = np.random.default_rng(0).lognormal(math.log(33), 0.8, sequences).clip(1, 200).astype(int).tolist()
    jobs = [Job(drawn[start : start + per_job]) for start in range(0, sequences, per_job)]
    jobs.reverse()
    done = waiting = valid = padded = runs = 0
    began = time.perf_counter()
    while done < sequences:
        now = time.perf_counter()
        while jobs and waiting < WAITING:
            job = jobs.pop()
            queues.submit(queue, job, now)
            waiting += len(job.lengths)
        run = next(queues.schedule(now))
        queues.update(run, None)
        runs += 1
        done += len(run.entries)
        waiting -= len(run.entries)
        padded += len(run.entries) * run.steps
        valid += sum(entry.steps for entry in run.entries)
    seconds = time.perf_counter() - began
    return {"sequences_per_second": sequences / seconds, "padding_ratio": padded / valid, "rows": done / runs}


def main(arguments: list[str] | None = None) -> None:
    """Measure single sequences and requests of 32 in turn, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench schedule", description=__doc__)
    parser.add_argument("--sequences", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    found: dict[int, list[dict[str, float]]] = {1: [], 32: []}
    for _ in range(options.rounds):
        for per_job, rounds in found.items():
            rounds.append(measure_queue(options.sequences, per_job))
    print(f"{'a request':>10} {'sequences/s':>12} {'padding':>8} {'rows':>6}")
    report: dict[str, object] = {"bench": "schedule", "rounds": options.rounds, "waiting": WAITING}
    for per_job, rounds in found.items():
        speed, padding, rows = (statistics.median(one[name] for one in rounds) for name in rounds[0])
        print(f"{per_job:>10} {speed:>12,.0f} {padding:>8.3f} {rows:>6.1f}")
        report[f"per_request_{per_job}"] = {"sequences_per_second": round(speed), "padding_ratio": round(padding, 4)}
    print(json.dumps(report))
