"""The artifacts that are checked in are what an export writes today, so what tests find of them is true of those."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench import __main__ as entry
from bench.load.models import write_models
from bench.load.workloads import MODELS
from lengthwise_client import Client
from model.encoder.config import EncoderConfig
from service.app import create_app
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.settings import Settings
from tests.conftest import ARTIFACTS, MADE, draw_sequences
from tests.export.making import KINDS, export_by_torch, export_kind
from tests.listening import listen

pytestmark = pytest.mark.usefixtures("small_grid")


@pytest.mark.parametrize("name", KINDS)
def test_an_artifact_is_what_is_exported_today(name: str, tmp_path: Path) -> None:
    """It has the graph and the weights an export writes now, bit for bit, and the manifest but for measurements.

    Its manifest lacks fields of the encoder that came later, which mean what they mean by default.
    """
    checked_in, today = ARTIFACTS / f"{name}.onnx", export_kind(KINDS[name], tmp_path / "today.onnx")
    assert onnx.load(checked_in).graph == onnx.load(today).graph
    found, expected = (open_session(path).manifest for path in (checked_in, today))
    assert found is not None
    assert expected is not None
    assert EncoderConfig(**found.encoder) == EncoderConfig(**expected.encoder)
    measured = {
        "encoder",
        "created",
        "parity",
        "golden",
        "quantization",
    }  # golden outputs are torch's, whose last bits differ by CPU
    assert found.model_dump(exclude=measured) == expected.model_dump(exclude=measured)
    assert [check.claim for check in found.parity] == [check.claim for check in expected.parity]
    assert [one.sequence for one in found.golden] == [one.sequence for one in expected.golden]


def test_the_graph_of_another_exporter_is_what_it_writes_today(tmp_path: Path) -> None:
    """torch.onnx writes the graph that is checked in."""
    assert onnx.load(ARTIFACTS / "pooled.onnx").graph == onnx.load(export_by_torch(tmp_path / "pooled.onnx")).graph


def test_no_artifact_is_left_over() -> None:
    """Every file that is checked in is written by `python -m tests.made`."""
    assert {path.stem for path in ARTIFACTS.iterdir()} == {*KINDS, "made", "pooled"}


def test_tensors_of_torch_are_encoded_bit_for_bit() -> None:
    """The client takes them as it takes numpy's arrays."""
    sequences = draw_sequences([4, 1])
    with listen(create_app(Settings(model=MADE))) as address, Client(f"http://{address}") as client:
        found = client.encode([torch.from_numpy(steps) for steps in sequences])
    session = open_session(MADE)
    assert found.tobytes() == np.concatenate([session.run(pad_batch([steps])) for steps in sequences]).tobytes()


def test_the_benchmarks_models_are_encoders_of_their_size(tmp_path: Path) -> None:
    """Each model that servers are measured with has the features and the units it is known for."""
    write_models(tmp_path)
    for name, size in MODELS.items():
        session = open_session(tmp_path / f"{name}.onnx")
        assert (session.kind.features, session.dim) == (size.features, 2 * size.hidden)


@pytest.mark.parametrize("name", ["distil", "models", "training"])
def test_bench_runs_the_measure_that_needs_torch(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the others, it explains itself and carries that name."""
    monkeypatch.setattr("sys.argv", ["bench", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    assert f"usage: python -m bench {name}" in capsys.readouterr().out
