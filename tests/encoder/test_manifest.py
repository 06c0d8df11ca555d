"""The manifest inside an artifact."""

import numpy as np
import pytest

from service.encoder.manifest import METADATA_KEY, ParityCheck, Tensor, read_manifest
from service.errors import ArtifactError


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (4,), ()])
def test_tensors_keep_every_bit(shape: tuple[int, ...]) -> None:
    """An array comes back as it was stored, empty ones and NaN included."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if array.ndim:
        array.reshape(-1)[:1] = np.nan
    restored = Tensor.model_validate_json(Tensor.of(array).model_dump_json()).array()
    assert restored.shape == shape
    assert restored.tobytes() == array.tobytes()


def test_a_file_without_manifest_has_none() -> None:
    """Other metadata is not ours to judge."""
    assert read_manifest({"author": "someone"}, "x.onnx") is None


@pytest.mark.parametrize(
    ("text", "place"), [("{", "the manifest"), ('{"name": "../x"}', "name"), ("[]", "the manifest")]
)
def test_a_broken_manifest_is_refused_by_file_and_place(text: str, place: str) -> None:
    """The sentence names the file and the first field at fault."""
    with pytest.raises(ArtifactError, match=rf"x\.onnx cannot be served: its manifest is invalid at {place}"):
        read_manifest({METADATA_KEY: text}, "x.onnx")


def test_a_nan_difference_holds_for_no_tolerance() -> None:
    """A proof that met NaN has failed."""
    check = ParityCheck(claim="c", cases=1, max_difference=float("nan"), tolerance=1.0)
    assert not check.holds
    assert check.model_copy(update={"max_difference": 1.0}).holds
