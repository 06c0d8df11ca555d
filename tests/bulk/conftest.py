"""What every test of bulk gets."""

import numpy as np
import numpy.typing as npt
import pytest

from bulk.sources import wanted
from tests.bulk.command import LENGTHS
from tests.conftest import draw_sequences


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some steps, so that few rows make several."""
    monkeypatch.setattr(wanted, "SHARD_BYTES", 700)


@pytest.fixture
def sequences() -> list[npt.NDArray[np.float32]]:
    """Sequences of lengths that are out of order."""
    return draw_sequences(LENGTHS)
