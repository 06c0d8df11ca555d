"""The proof itself: each claim fails if it, and hardly anything else, is not true of a session."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from export import oracle, verify
from export.graph import GraphOptions, build_graph
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import Cell
from service.encoder.sequences import Batch
from service.encoder.session import EncoderSession
from tests.conftest import draw_sequences

LITTLE = 1e-6  # less than what is tolerated of torch


class Tampered:
    """A session whose answers are changed on their way."""

    def __init__(self, session: EncoderSession, change: Callable[[Batch, Any], Any]) -> None:
        self._session = session
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_all(self, batch: Batch) -> Any:
        """Run a batch, and change what comes out."""
        return self._change(batch, self._session.run_all(batch))


def add(result: Any, rows: Any) -> Any:
    """Add a little to each embedding, as often as `rows` `(B,)` says."""
    more = (LITTLE * np.asarray(rows)[:, None]).astype(np.float32)
    return dataclasses.replace(result, embeddings=result.embeddings + more)


def leave_steps(batch: Batch, result: Any) -> Any:
    """Leave something in the steps past a row's length."""
    steps = result.steps.copy()
    for row, length in zip(steps, batch.lengths, strict=True):
        row[length:] = LITTLE
    return dataclasses.replace(result, steps=steps)


def read_junk(batch: Batch, result: Any) -> Any:
    """Let what stands in the padding reach the embedding, if it is anything but zero."""
    rows = [steps[length:].any() for steps, length in zip(batch.steps, batch.lengths, strict=True)]
    return add(result, rows)


def count_rows(batch: Batch, result: Any) -> Any:
    """Let the place in a batch reach the embedding."""
    return add(result, np.arange(len(batch.lengths)) % 2)


def fill_empty(batch: Batch, result: Any) -> Any:
    """Give an empty sequence an embedding that is almost zero."""
    return add(result, batch.lengths == 0)


@pytest.fixture(scope="module")
def proven() -> tuple[SequenceEncoder, EncoderSession]:
    """An encoder, and a session that gives what it gives."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3)).eval()
    graph = build_graph(encoder, GraphOptions(steps=True))
    return encoder, EncoderSession(graph.SerializeToString(), "a session")


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "GRID_BATCHES", (2,))


def list_failures(encoder: SequenceEncoder, session: Any) -> list[str]:
    """Return the claims about embeddings and steps that do not hold."""
    checks = verify.verify(encoder, session, draw_sequences([3, 1, 4, 4], 2))
    return [check.claim for check in checks if not check.holds]


@pytest.mark.parametrize(
    ("change", "claims"),
    [
        (lambda _, result: result, []),
        (leave_steps, ["steps equal torch in mixed batches", "steps are the same alone and in any batch"]),
        (read_junk, ["embedding is the same with more padding, and junk in it"]),
        (count_rows, ["embedding is the same alone and in any batch", "embedding is the same in reverse order"]),
        (fill_empty, ["embedding is zero for an empty sequence"]),
    ],
)
def test_a_claim_fails_if_it_is_not_true(
    change: Callable[[Batch, Any], Any], claims: list[str], proven: tuple[SequenceEncoder, EncoderSession]
) -> None:
    """A difference that no tolerance would notice fails the claim that there is none."""
    failed = list_failures(proven[0], Tampered(proven[1], change))
    assert set(claims) <= set(failed)
    assert bool(failed) == bool(claims)
    if change is not leave_steps:
        assert not any(claim.startswith(("steps", "embedding equals")) for claim in failed)


def test_an_encoder_of_torch_that_is_wrong_alike_fails_by_the_oracle(
    proven: tuple[SequenceEncoder, EncoderSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If torch and the graph agree, and numpy does not, the claim about numpy alone fails."""
    encode = oracle.encode

    def differ(*arguments: Any) -> Any:
        answer = encode(*arguments)
        return dataclasses.replace(answer, embedding=answer.embedding + 0.01)

    monkeypatch.setattr(oracle, "encode", differ)
    assert list_failures(*proven) == ["embedding equals a numpy oracle on each sequence, unpadded"]


def make_small(weights: float, leaving: float) -> tuple[SequenceEncoder, EncoderSession]:
    """Make an encoder of small numbers, and its session.

    Args:
        weights: what all weights and biases are multiplied by.
        leaving: what is added to the bias of every output gate.
    """
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3)).eval()
    with torch.no_grad():
        for name, part in encoder.layers.named_parameters():
            part.mul_(weights)
            if "bias_ih" in name:
                part[-3:] += leaving
    graph = build_graph(encoder, GraphOptions(steps=True))
    return encoder, EncoderSession(graph.SerializeToString(), "a session")


SMALL = {"small weights": (3e-6, 0.0), "closed gates": (1.0, -13.0)}


@pytest.mark.parametrize("how", SMALL)
def test_small_numbers_pass_the_proof(how: str) -> None:
    """An encoder whose numbers are all around a millionth is proven like any other, also if it shuts its gates."""
    encoder, session = make_small(*SMALL[how])
    alone = verify.run_session(session, [oracle.Case(draw_sequences([9], 2)[0])])[0].embedding
    assert 1e-8 < np.abs(alone).max() < 5e-6
    assert list_failures(encoder, session) == []


@pytest.mark.parametrize(("cell", "seed", "added"), [("lstm", 0, [-9.0, 9.0, 0.0, 0.0]), ("gru", 3, [0.0, 9.0, 0.0])])
def test_errors_that_a_cell_adds_up_pass_the_proof(cell: Cell, seed: int, added: list[float]) -> None:
    """Gates that let little in and keep it are right to about a bit at each step, and 30 steps to no more than 30."""
    torch.manual_seed(seed)
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=8, cell=cell)).eval()
    with torch.no_grad():
        for name, part in encoder.layers.named_parameters():
            if "bias_ih" in name:
                part.add_(torch.tensor(added).repeat_interleave(8))
    session = EncoderSession(build_graph(encoder, GraphOptions(steps=True)).SerializeToString(), "a session")
    checks = verify.verify(encoder, session, draw_sequences([30, 3], 2))
    assert all(check.holds for check in checks)


@pytest.mark.parametrize("how", SMALL)
def test_small_numbers_hide_no_wrong_graph(how: str) -> None:
    """Numbers around a millionth that are half as large again are refused, in every way that equality is claimed."""
    encoder, session = make_small(*SMALL[how])

    def enlarge(_: Batch, result: Any) -> Any:
        return dataclasses.replace(result, embeddings=1.5 * result.embeddings, steps=1.5 * result.steps)

    failed = list_failures(encoder, Tampered(session, enlarge))
    assert len(failed) == 8
    assert all(" equal" in claim for claim in failed)
