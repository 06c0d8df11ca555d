"""What a request carries from stage to stage: dataclasses that nobody changes."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Payload = TypeVar("Payload")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[Payload]) -> type[Payload]:
    """Make a slotted dataclass whose fields mypy lets nobody set.

    `dataclass(frozen=True)` refuses that when the code runs, too, for which every new object pays: it is filled through
    `object.__setattr__`, in three times the time.
    """
    return dataclass(slots=True)(kind)
