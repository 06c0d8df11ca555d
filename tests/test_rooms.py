"""The rooms of the service: each says what is in it."""

import importlib
import re
from pathlib import Path

import pytest


@pytest.mark.parametrize("room", ["service.batching", "service.costs"])
def test_a_rooms_docstring_names_every_module(room: str) -> None:
    """It is the room's map: every module stands in it once, with a clause on what it holds."""
    package = importlib.import_module(room)
    modules = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    named = re.findall(r"^- `(\w+)`: \S+", package.__doc__ or "", re.MULTILINE)
    assert sorted(named) == sorted(modules)
