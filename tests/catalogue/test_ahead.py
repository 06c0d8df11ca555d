"""What is loaded before workers are forked, and used by them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.catalogue.ahead import load_ahead
from service.catalogue.loading import Loader
from service.catalogue.models import Models
from service.catalogue.vetting.examiner import Examiner
from service.encoder.runtime import LocalRuntime
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.errors import ProviderUnavailable
from service.settings import Settings
from tests.conftest import ARTIFACTS, draw_sequences

BATCH = pad_batch(draw_sequences([3, 1]))


def forbid(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let a test fail if something is called from here on."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError(f"{owner.__name__}.{name} was called")

    monkeypatch.setattr(owner, name, fail)


def test_a_forked_process_runs_what_was_loaded_before(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads nothing itself, its embeddings are the same to the last bit, and so is the memory it tells of."""
    settings = Settings(model=artifact, threads=1)
    expected = open_session(artifact).run(BATCH)
    ahead = load_ahead(settings)
    forbid(monkeypatch, LocalRuntime, "__init__")
    if not (child := os.fork()):
        served = Loader(settings, ahead=ahead).open(artifact, Models())
        (loaded,) = ahead.values()
        is_right = np.array_equal(served.session.run(BATCH), expected) and served.memory_bytes == loaded.memory_bytes
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_that_was_replaced_is_loaded_anew(artifact: Path, tmp_path: Path) -> None:
    """Files are known by their content, not by their path."""
    file = tmp_path / "made.onnx"
    shutil.copy(ARTIFACTS / "pooled.onnx", file)
    settings = Settings(model=file, threads=1)
    ahead = load_ahead(settings)
    shutil.copy(artifact, file)
    served = Loader(settings, ahead=ahead).open(file, Models())
    assert served.session.sha256 == open_session(artifact).sha256
    assert np.array_equal(served.session.run(BATCH), open_session(artifact).run(BATCH))


def test_a_folder_is_examined_once_for_all(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be believed is left to those who say why; the others are examined before the fork alone."""
    shutil.copy(artifact, tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    settings = Settings(models=tmp_path, threads=1)
    ahead = load_ahead(settings)
    assert len(ahead) == 1
    forbid(monkeypatch, Examiner, "examine")
    served = Loader(settings, ahead=ahead).open(tmp_path / "good.onnx", Models())
    assert np.array_equal(served.session.run(BATCH), open_session(artifact).run(BATCH))


def test_what_asks_for_cuda_is_not_loaded_ahead_on_the_cpu(artifact: Path) -> None:
    """A service that CUDA was asked of, and that has none, does not start, however many workers it would have."""
    settings = Settings(model=artifact, threads=1, provider="cuda")
    with pytest.raises(ProviderUnavailable):
        Loader(settings, ahead=load_ahead(settings)).open(artifact, Models())


def test_a_run_of_several_threads_is_not_loaded_ahead(artifact: Path) -> None:
    """Its threads would not be there after a fork."""
    assert load_ahead(Settings(model=artifact, threads=2)) == {}
