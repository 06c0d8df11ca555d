"""The plan: what is encoded, by which model, into which parts. It is written down before the first part is.

A part is done when its final name is there. So whatever runs shards, at least once and in any order, writes the same
parts: each row once, in order, byte for byte.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from bulk.mistakes import BulkError
from bulk.stores import Place

FORMAT = 1
NAME = "plan.json"
TOLD = 10  # changes, when there are many: each of ten thousand files may have been copied
PART = re.compile(r"part-\d+\..+")


@dataclass(frozen=True, slots=True)
class Input:
    """A file that is read.

    Attributes:
        path: as it was given, or found in a folder that was.
        bytes: its size.
        modified_ns: when it was last written.
        partitions: columns that the names of its folders are, all texts.
    """

    path: str
    bytes: int
    modified_ns: int
    partitions: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of one input that are encoded together and become one part.

    Attributes:
        input: its place among the inputs.
        start: number of its first row in that input, from 0.
        rows: how many there are.
        first: where the input begins to be read: a row group, a byte of the text, a step of the values.
        last: the place after its end.
    """

    input: int
    start: int
    rows: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be encoded.

    Attributes:
        model: SHA-256 of the artifact.
        options: those that change the output, by name.
        inputs: in the order of their rows.
        shards: in the order of the parts.
    """

    model: str
    options: dict[str, Any]
    inputs: list[Input]
    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the output; the parts name it."""
        return hashlib.sha256(self._write().encode()).hexdigest()

    @property
    def starts(self) -> list[int]:
        """For each shard, how many rows all shards before it have; and at the end, how many there are."""
        return [*accumulate((shard.rows for shard in self.shards), initial=0)]

    def save(self, folder: Place) -> None:
        """Write the plan unless it is there; of several programs that do so at once, one does.

        Raises:
            BulkError: another program has another plan there by now.
        """
        folder.make_folder()
        place = folder / NAME
        if not place.exists:
            place.put([self._write().encode()], replaces=False)
        if (found := read_plan(folder)) is None or found.digest != self.digest:
            raise BulkError(f"another program began another plan in {folder} meanwhile: encode into another folder")

    def _write(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)


def read_plan(folder: Place) -> Plan | None:
    """Read the plan of an output folder, None if it has none.

    Raises:
        BulkError: it was written by another version, or is damaged.
    """
    try:
        found = json.loads((folder / NAME).read())
        if found.pop("format") != FORMAT:
            raise BulkError(f"{folder / NAME} was written by another version: encode into another folder")
        inputs = [Input(**one) for one in found.pop("inputs")]
        return Plan(inputs=inputs, shards=[Shard(**one) for one in found.pop("shards")], **found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BulkError(f"{folder / NAME} cannot be read as a plan: {error}") from error


def require_same(plan: Plan, model: str, options: dict[str, Any], inputs: Sequence[Input], folder: Place) -> None:
    """Refuse to go on with a plan for something else.

    Raises:
        BulkError: names what changed.
    """
    changes = [] if plan.model == model else [f"the model was {plan.model[:12]} and is {model[:12]}"]
    changes += [
        f"{name} was {plan.options.get(name)!r} and is {options.get(name)!r}"
        for name in sorted({*plan.options, *options})
        if plan.options.get(name) != options.get(name)
    ]
    before, now = ({one.path: one for one in some} for some in (plan.inputs, inputs))
    changes += [f"{path} has gone" for path in before if path not in now]
    changes += [f"{path} has come" for path in now if path not in before]
    changes += [f"{path} was written anew" for path in now if path in before and now[path] != before[path]]
    if not changes and [one.path for one in plan.inputs] != [one.path for one in inputs]:
        changes.append("the inputs are in another order, or one is named more or less often")
    if changes:
        more = [f"and {len(changes) - TOLD} more"] if len(changes) > TOLD else []
        said = f"{folder} holds the output of another plan: {'; '.join(changes[:TOLD] + more)}"
        raise BulkError(f"{said}. Encode into another folder, or remove it.")
