"""What every kind of output has: parts, their names, and which of them are done."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import orjson

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.plan import PART, Plan
from bulk.rows import Rows
from bulk.stores import Place

DIGITS = 5  # of a part's number, if that is enough for all: then names sort as the rows do


class Sink(ABC):
    """Writes the parts of a plan."""

    suffix = ""

    def __init__(self, folder: Place, plan: Plan, dim: int, model: str) -> None:
        self.folder = folder
        self.plan = plan
        self.dim = dim
        self.model = model
        self.digest = plan.digest
        self.starts = plan.starts
        self._digits = max(DIGITS, len(str(len(plan.shards) - 1)))
        self._done: set[int] = set()

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Make what all parts share, in the folder that is there now."""

    def name(self, number: int) -> Place:
        """Return the final name of a part."""
        return self.folder / f"{self._stem(number)}{self.suffix}"

    def _stem(self, number: int) -> str:
        return f"part-{number:0{self._digits}}"

    def find_done(self) -> set[int]:
        """Find the parts that are done.

        Raises:
            BulkError: there is a part that the plan does not have, which readers of the folder would read with its own.
        """
        there = {file.name for file in self.folder.list_files()}
        stems = {self._stem(number): number for number in range(len(self.plan.shards))}
        strays = [name for name in there if PART.fullmatch(name) and name.partition(".")[0] not in stems]
        if strays:
            stray = self.folder / min(strays)
            raise BulkError(f"{stray} is not of the plan beside it: remove it, or encode into another folder")
        parts = [n for stem, n in stems.items() if n not in self._done and f"{stem}{self.suffix}" in there]
        self._done.update(self.select_done(parts))
        return self._done

    def select_done(self, parts: list[int]) -> list[int]:
        """Return the parts that are done, of some that are there."""
        return parts

    def is_done(self, number: int) -> bool:
        """Whether a part is there."""
        return self.name(number).exists

    def write(self, number: int, rows: Rows, encoded: Encoded, problems: list[dict[str, Any]]) -> None:
        """Write a part: its problems first, so that nobody finds the part without them."""
        if problems:
            (self.folder / f"{self._stem(number)}.errors").put(orjson.dumps(one) + b"\n" for one in problems)
        with self.name(number).create() as stream:
            self.make(stream, number, rows, encoded)
        self._done.add(number)

    @abstractmethod
    def make(self, stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write the bytes of a part."""


def refuse_twice(kept: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuse to write two things under one name.

    Raises:
        BulkError: what is kept of a row has the name of an output.
    """
    if twice := {*kept}.intersection(outputs):
        name = min(twice)
        raise BulkError(f"the input holds {name!r}, and so would the output: name what to keep with --columns")
