"""`lengthwise inspect FILE`: an artifact's card."""

from pathlib import Path

import onnx
import pytest

from service.catalogue import card
from service.encoder.manifest import METADATA_KEY, Manifest
from tests.conftest import ARTIFACTS
from tests.made import take


def show(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Return what the card says, by the name of its line."""
    card.main([str(path)])
    said: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        said.setdefault(line[:9].strip(), []).append(line[10:])
    return said


def read(path: Path) -> Manifest:
    """Return an artifact's manifest."""
    (entry,) = (one for one in onnx.load(path).metadata_props if one.key == METADATA_KEY)
    return Manifest.model_validate_json(entry.value)


@pytest.mark.parametrize(
    ("kind", "takes", "gives"),
    [
        ("triples", "sequences of any length, 3 numbers a step", "an embedding of 8 numbers (mean over the steps)"),
        ("texts", "texts, or sequences of token ids from 1 to ", "an embedding of "),
        ("tokens", "sequences of token ids from 1 to ", "an embedding of "),
    ],
)
def test_card_says_what_goes_in_and_comes_out(
    kind: str, takes: str, gives: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers, token ids or texts in; embeddings out."""
    said = show(ARTIFACTS / f"{kind}.onnx", capsys)
    assert said["takes"][0].startswith(takes)
    assert said["gives"][0].startswith(gives)


def test_card_names_the_numbers_in_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order in which a request gives them, if the file that was trained on named them."""
    (takes,) = show(take("triples", tmp_path / "named.onnx", columns=["x", "y", "z"]), capsys)["takes"]
    assert takes.startswith("sequences of any length, 3 numbers a step (x, y, z)")


def test_card_names_many_columns_in_its_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in their order: a request needs it, and hundreds of names would hide the rest of the card."""
    monkeypatch.setattr(card, "MOST_NAMED", 2)
    said = show(take("triples", tmp_path / "named.onnx", columns=["x", "y", "z"]), capsys)
    assert said["takes"][0].startswith("sequences of any length, 3 numbers a step (named in the last line)")
    assert [*said.items()][-1] == ("columns", ["x, y, z"])


def test_card_names_further_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    """The steps' outputs and the state are there if the graph gives them."""
    (gives,) = show(ARTIFACTS / "triples-steps.onnx", capsys)["gives"]
    assert ", 8 numbers for each step" in gives


def test_card_repeats_proof_source_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    """Each claim of the export has a line, and the golden vectors were replayed here."""
    path = ARTIFACTS / "triples.onnx"
    manifest, said = read(path), show(path, capsys)
    assert [line.partition(":")[0] for line in said["proof"]] == [check.claim for check in manifest.parity]
    assert said["here"][0].startswith(f"{len(manifest.golden)} golden vectors replayed, within ")
    assert (said["source"], said["licence"]) == ([manifest.source], [manifest.licence])


def test_card_of_int8_says_what_that_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no claim of equality; there is the largest difference."""
    said = show(ARTIFACTS / "int8.onnx", capsys)
    assert "proof" not in said
    assert said["int8"][0].startswith("differs from float32 by up to ")


def test_card_without_a_manifest_says_that_nothing_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the graph takes and gives is still told."""
    model = onnx.load(ARTIFACTS / "triples.onnx")
    del model.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    said = show(tmp_path / "bare.onnx", capsys)
    assert said["proof"] == ["none: it carries no manifest, so that nothing about it is verified"]
    assert said["takes"] == ["sequences of any length, 3 numbers a step"]
    assert "licence" not in said


def test_card_shows_no_character_that_moves_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file says of its source is one printable line, whatever it holds."""
    model = onnx.load(ARTIFACTS / "triples.onnx")
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            manifest = Manifest.model_validate_json(entry.value)
            entry.value = manifest.model_copy(update={"source": "a\x1b[2J\nlicence   free"}).model_dump_json()
    (tmp_path / "sly.onnx").write_bytes(model.SerializeToString())
    said = show(tmp_path / "sly.onnx", capsys)
    assert said["source"] == ["a [2J licence free"]
    assert len(said["licence"]) == 1
