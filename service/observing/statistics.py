"""What each version of a model was asked and what that took, in the shape of Triton's statistics extension.

Only what is counted here is told. Of a batch that is its size and its time on a runner: what its requests took to be
read and written belongs to no batch.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

NANOSECONDS = 10**9


class Statistics:
    """The figures of one version of a model since the start.

    Attributes:
        inferences: sequences that were encoded, those of streams among them.
        last: when its last batch ended, in seconds since 1970; 0 before the first.
        answered, seconds: requests that were, and what all of them took. Streams are not among them.
        queue, decode, run, encode: seconds of the same requests, by stage.
        failed, failed_seconds: requests that a problem ended, and what all of them took.
        batches, batch_seconds: how many there were, and what all of them took, by how many sequences they had.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self.inferences = self.answered = self.failed = 0
        self.last = self.seconds = self.failed_seconds = 0.0
        self.queue = self.decode = self.run = self.encode = 0.0
        self.batches: Counter[int] = Counter()
        self.batch_seconds: defaultdict[int, float] = defaultdict(float)

    def count_answer(self, seconds: float, queue: float, decode: float, run: float, encode: float) -> None:
        """Count a request that was answered, and what its stages took."""
        self.answered += 1
        self.seconds += seconds
        self.queue += queue
        self.decode += decode
        self.run += run
        self.encode += encode

    def count_failure(self, seconds: float) -> None:
        """Count a request that a problem ended."""
        self.failed += 1
        self.failed_seconds += seconds

    def count_batch(self, sequences: int, failed: int, seconds: float, ended: float) -> None:
        """Count a batch, and those of its sequences that have an embedding."""
        self.inferences += sequences - failed
        self.last = ended
        self.batches[sequences] += 1
        self.batch_seconds[sequences] += seconds

    def write(self, name: str, version: str) -> dict[str, Any]:
        """Return the figures as Triton names them; there is no cache, so that nothing was looked up in one."""
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
    """Add up what several processes wrote of one version of a model."""
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
    """Return how often something was done, and the nanoseconds that all of it took."""
    return {"count": count, "ns": round(seconds * NANOSECONDS)}


def _add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one[name] + other[name] for name in one}
