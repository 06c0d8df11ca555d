"""How far the encoding is: a bar at a terminal, else a line a minute."""

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 60.0  # between two lines if there is no terminal


@dataclass(slots=True)
class Done:
    """What this program has encoded so far.

    Attributes:
        rows: of all inputs.
        steps: valid ones.
        padded_steps: computed ones.
        errors: rows that could not be encoded.
    """

    rows: int = 0
    steps: int = 0
    padded_steps: int = 0
    errors: int = 0

    def describe(self, seconds: float) -> str:
        """Say it in a line, with the rate over so many seconds."""
        padding = 1 - self.steps / self.padded_steps if self.padded_steps else 0.0
        rate = f"{self.steps / max(seconds, 1e-9):,.0f} steps/s"
        errors = f", {self.errors} could not be encoded" if self.errors else ""
        return f"{rate}, {padding:.1%} padding{errors}"


class Said(ProgressColumn):
    """The rate and the padding, beside the bar."""

    def __init__(self, done: Done) -> None:
        super().__init__()
        self._done = done

    def render(self, task: Task) -> Text:
        """Say what is done."""
        return Text(self._done.describe(task.elapsed or 0.0))


class Meter(AbstractContextManager["Meter"]):
    """Shows what is done of so many rows.

    Attributes:
        done: what is.
    """

    def __init__(self, rows: int, *, quiet: bool = False) -> None:
        self.done = Done()
        self._rows = rows
        self._quiet = quiet
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet:
            columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"))
            self._bar = Progress(*columns, Said(self.done), TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=rows)

    def __enter__(self) -> Self:
        """Begin to show it."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the end of it."""
        if self._bar:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self._began

    def add(self, rows: int, steps: int, padded_steps: int, errors: int) -> None:
        """Take in what was encoded."""
        done = self.done
        done.rows += rows
        done.steps += steps
        done.padded_steps += padded_steps
        done.errors += errors
        if self._bar:
            self._bar.update(self._task, completed=done.rows)
        elif not self._quiet and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            left = self.seconds * (self._rows - done.rows) / max(1, done.rows)
            sys.stderr.write(
                f"{done.rows:,} of {self._rows:,} rows, {done.describe(self.seconds)}, {left / 60:.0f} minutes left\n"
            )
