"""What is read of each row, and what every source offers."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Protocol

from bulk.plan import Shard
from bulk.rows import Rows
from service.encoder.sequences import InputSpec
from service.settings import Limits

TEXT = "text"  # the column of texts, if there is none of the name that was asked for
SHARD_BYTES = 2**24  # of an input, as it lies in memory
SHARD_ROWS = 2**12  # of short sequences, whose embeddings take more than they do


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of each row.

    Attributes:
        column: that holds the sequences.
        columns: what else is kept; None for all there is.
        spec: what the model reads.
        limits: what one sequence may be.
        types: of what is kept of JSON lines, by name, as `infer_types` found them; None if all may be kept as it is.
        model: the model's name, for requests that name one.
        dim: D, the numbers in an embedding, for requests that want so many.
        is_batch: whether the lines are OpenAI's batch requests.
        features: the names of the numbers in a step, as the model was trained on them; empty if it does not say.
        id: of a CSV of steps, the column that says whose step a line is.
        order: of a CSV of steps, the column that orders them.
    """

    column: str
    columns: tuple[str, ...] | None
    spec: InputSpec
    limits: Limits
    types: dict[str, str] | None = None
    model: str = ""
    dim: int = 0
    is_batch: bool = False
    features: tuple[str, ...] = ()
    id: str = "id"
    order: str = "order"

    def find(self, names: Container[str]) -> tuple[str, ...]:
        """Return which of a file's columns hold sequences: one, `features` with a list for each, or none."""
        if self.column in names:
            return (self.column,)
        if self.features and all(name in names for name in self.features):
            return self.features
        return (TEXT,) if self.spec.tokenize and TEXT in names else ()


class Source(Protocol):
    """One input."""

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield rows, first and last of each shard, as `Shard` has them."""

    def read(self, shard: Shard) -> Rows:
        """Read a shard."""
