"""What each version of a model was asked and what that took, in the shape of Triton's statistics extension.

Only what is counted here is told. Of a batch that is its size and its time on a runner: what its requests took to be
read and written belongs to no batch.
"""

from collections.abc import Iterable
from typing import Any

NANOSECONDS = 10**9


class Duration:
    """How often something was done, and the nanoseconds that all of it took."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.count = self.ns = 0

    def add(self, seconds: float) -> None:
        """Count something that took so long."""
        self.count += 1
        self.ns += round(seconds * NANOSECONDS)

    def write(self) -> dict[str, int]:
        """Return both numbers."""
        return {"count": self.count, "ns": self.ns}


class Statistics:
    """The figures of one version of a model since the start.

    Attributes:
        inferences: sequences that were encoded, those of streams among them.
        last: when its last batch ended, in seconds since 1970; 0 before the first.
        success, fail: requests that were answered, and those that a problem ended.
        queue, decode, run, encode: of the answered ones, the stages. Streams have none, and are not among them.
        batches: by how many sequences they had.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self.inferences = 0
        self.last = 0.0
        self.success, self.fail = Duration(), Duration()
        self.queue, self.decode, self.run, self.encode = Duration(), Duration(), Duration(), Duration()
        self.batches: dict[int, Duration] = {}

    def count_answer(self, seconds: float, queue: float, decode: float, run: float, encode: float) -> None:
        """Count a request that was answered, and what its stages took."""
        self.success.add(seconds)
        self.queue.add(queue)
        self.decode.add(decode)
        self.run.add(run)
        self.encode.add(encode)

    def count_batch(self, sequences: int, failed: int, seconds: float, ended: float) -> None:
        """Count a batch, and those of its sequences that have an embedding."""
        self.inferences += sequences - failed
        self.last = ended
        self.batches.setdefault(sequences, Duration()).add(seconds)

    def write(self, name: str, version: str) -> dict[str, Any]:
        """Return the figures as Triton names them; there is no cache, so that nothing was looked up in one."""
        stages = {
            "success": self.success,
            "fail": self.fail,
            "queue": self.queue,
            "compute_input": self.decode,
            "compute_infer": self.run,
            "compute_output": self.encode,
            "cache_hit": Duration(),
            "cache_miss": Duration(),
        }
        return {
            "name": name,
            "version": version,
            "last_inference": round(1000 * self.last),
            "inference_count": self.inferences,
            "execution_count": sum(batch.count for batch in self.batches.values()),
            "inference_stats": {stage: spent.write() for stage, spent in stages.items()},
            "batch_stats": [
                {"batch_size": size, "compute_infer": batch.write()} for size, batch in sorted(self.batches.items())
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


def _add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one[name] + other[name] for name in one}
