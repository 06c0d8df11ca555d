"""Counts what each version of a model was asked and how long that took, in the shape of Triton's statistics extension.

Of a batch only the size and the time on a runner are told: reading and writing a request belongs to no batch.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

NANOSECONDS = 10**9


class Statistics:
    """The figures of one version of a model since the start.

    Attributes:
        inferences: how many sequences were encoded, those of streams included.
        last: when the last batch ended, in seconds since 1970; 0 before the first.
        answered, seconds: how many requests were answered, streams not included, and the time they took together.
        queue, decode, run, encode: the time that each stage of these requests took together.
        failed, failed_seconds: how many requests ended in a problem, and the time they took together.
        batches, batch_seconds: how many batches of each number of sequences ran, and the time they took together.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self.inferences = self.answered = self.failed = 0
        self.last = self.seconds = self.failed_seconds = 0.0
        self.queue = self.decode = self.run = self.encode = 0.0
        self.batches: Counter[int] = Counter()
        self.batch_seconds: defaultdict[int, float] = defaultdict(float)

    def count_answers(
        self, number: int, seconds: float, decode: float, queue: float, run: float, encode: float
    ) -> None:
        """Count requests that were answered, and the time that they and each of their stages took together."""
        self.answered += number
        self.seconds += seconds
        self.decode += decode
        self.queue += queue
        self.run += run
        self.encode += encode

    def count_failures(self, number: int, seconds: float) -> None:
        """Count requests that ended in a problem, and the time that they took together."""
        self.failed += number
        self.failed_seconds += seconds

    def count_batches(self, number: int, sequences: int, failed: int, seconds: float, ended: float) -> None:
        """Count batches of so many sequences each, and all of those that have an embedding."""
        self.inferences += number * sequences - failed
        self.last = max(self.last, ended)
        self.batches[sequences] += number
        self.batch_seconds[sequences] += seconds

    def write(self, name: str, version: str) -> dict[str, Any]:
        """Return the figures under Triton's names; those of a cache are 0, because the service has none."""
        return {
            "name": name,
            "version": version,
            "last_inference": round(1000 * self.last),
            "inference_count": self.inferences,
            "execution_count": self.batches.total(),
            "inference_stats": {
                "success": _write(self.answered, self.seconds),
                "fail": _write(self.failed, self.failed_seconds),
                "queue": _write(self.answered, self.queue),
                "compute_input": _write(self.answered, self.decode),
                "compute_infer": _write(self.answered, self.run),
                "compute_output": _write(self.answered, self.encode),
                "cache_hit": _write(0, 0.0),
                "cache_miss": _write(0, 0.0),
            },
            "batch_stats": [
                {"batch_size": size, "compute_infer": _write(count, self.batch_seconds[size])}
                for size, count in sorted(self.batches.items())
            ],
        }


def join(first: dict[str, Any], others: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up the figures that several workers wrote for one version of a model."""
    whole = dict(first)
    sizes = {batch["batch_size"]: batch["compute_infer"] for batch in first["batch_stats"]}
    for other in others:
        whole["last_inference"] = max(whole["last_inference"], other["last_inference"])
        for counter in ("inference_count", "execution_count"):
            whole[counter] += other[counter]
        stages = whole["inference_stats"].items()
        whole["inference_stats"] = {stage: _add(spent, other["inference_stats"][stage]) for stage, spent in stages}
        for batch in other["batch_stats"]:
            size, spent = batch["batch_size"], batch["compute_infer"]
            sizes[size] = _add(sizes[size], spent) if size in sizes else spent
    whole["batch_stats"] = [{"batch_size": size, "compute_infer": sizes[size]} for size in sorted(sizes)]
    return whole


def _write(count: int, seconds: float) -> dict[str, int]:
    """Write how often something was done, and the nanoseconds that it took together."""
    return {"count": count, "ns": round(seconds * NANOSECONDS)}


def _add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one[name] + other[name] for name in one}
