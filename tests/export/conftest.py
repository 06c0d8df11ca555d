"""What tests of the export share: a run directory, and a smaller proof."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory that `artifact` was exported from."""
    from tests.export.making import make_run_of_two_layers

    return make_run_of_two_layers(tmp_path_factory.mktemp("run"))


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove on fewer batches, if a test proves many encoders; the shipped one has the whole grid."""
    monkeypatch.setattr("export.verify.GRID_BATCHES", (1, 5))
