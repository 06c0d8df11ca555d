"""What a training says while it runs: a bar on a terminal, and elsewhere a line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN = 5.0

T = TypeVar("T")


class Progress:
    """Prints a line after the first epoch, the last, and those between that end some seconds after the last line.

    On a terminal a bar shows how far each epoch is, and only the last epoch's line is printed.
    """

    def __init__(self, epochs: int, *, is_first: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            epochs: how many there are at most.
            is_first: of several processes that train together only the first says something.
            clock: seconds.
        """
        self._epochs = epochs
        self._is_first = is_first
        self._has_bar = sys.stdout.isatty()
        self._clock = clock
        self._printed: float | None = None
        self._waiting = ""
        self._metrics = ""

    def watch(self, batches: Iterable[T], count: int, epoch: int) -> Iterable[T]:
        """Return the batches of an epoch, `count` of them; as they are taken, the bar moves."""
        if not (self._has_bar and self._is_first):
            return batches
        bar: Iterable[T] = tqdm(
            batches,
            f"epoch {epoch + 1} of {self._epochs}",
            count,
            file=sys.stdout,
            leave=False,
            dynamic_ncols=True,
            unit="batch",
            postfix=self._metrics,
        )
        return bar

    def tell(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print or keep the line of the epoch that ended."""
        self._metrics = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._waiting = f"epoch {epoch + 1} of {self._epochs}: {self._metrics}"
        is_due = self._printed is None or self._clock() - self._printed >= SECONDS_BETWEEN
        if is_due and not self._has_bar:
            self._print()

    def end(self) -> None:
        """Print the line of the last epoch, if it waits."""
        if self._waiting:
            self._print()

    def _print(self) -> None:
        if self._is_first:
            print(self._waiting, file=sys.stderr, flush=True)
        self._printed, self._waiting = self._clock(), ""
