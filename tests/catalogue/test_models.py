"""Which model a name means."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from service.api import encoding
from service.api.routing import EXCHANGE, SERVICE
from service.batching.jobs import Job
from service.catalogue.loading import Loader
from service.catalogue.models import Models, ServedModel
from service.costs import calibrate
from service.costs.memory import resident_bytes, trim_heap
from service.encoder.sequences import Batch
from service.encoder.session import open_session
from service.errors import QueueFull, UnexpectedModel, UnknownModel
from service.observing.counts import Exchange
from service.settings import Settings
from tests.conftest import ARTIFACTS


@pytest.fixture
def served(artifact: Path) -> ServedModel:
    """The made model."""
    return Loader(Settings(model=artifact, max_sequence_steps=10, max_request_steps=10, max_queue_steps=10)).open(
        artifact, Models()
    )


def fill(model: ServedModel, *called: tuple[str, str], default: str | None = None) -> Models:
    """Serve the made model under names and versions."""
    models = Models(default)
    for name, version in called:
        models.change(None, replace(model, name=name, version=version))
    return models


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["1", "2", "10"], "10"),
        (["1.9", "1.10"], "1.10"),
        (["2024-09-30", "2024-10-01"], "2024-10-01"),
        (["2", "2.1"], "2.1"),
        (["1.0", "1.0.rc1"], "1.0.rc1"),
        (["v9", "v10"], "v10"),
        (["a", "b"], "b"),
    ],
)
def test_a_name_means_its_newest_version(versions: list[str], newest: str, served: ServedModel) -> None:
    """Numbers in versions count as numbers, whichever came first; each can be had by its own."""
    for order in (versions, versions[::-1]):
        models = fill(served, *(("made", version) for version in order))
        assert models.find("made").version == newest
        assert {models.find(f"made@{version}").version for version in versions} == set(versions)
        assert next(model.version for model in models) == newest
        assert set(models.names()) == {"made", *(f"made@{version}" for version in versions)}


def test_no_name_means_the_default(served: ServedModel) -> None:
    """The only one there is, whatever its versions, or the one that is set; of several none, which lists them."""
    assert fill(served, ("a", "1"), ("a", "2")).find(None).full_name == "a@2"
    assert fill(served, ("a", "1"), ("b", "1"), default="b").find(None).name == "b"
    assert fill(served, ("a", "1"), ("a", "2"), default="a@1").find(None).full_name == "a@1"
    assert fill(served, ("a", "1"), ("a", "2"), default="a@1").default_name == "a@1"
    models = fill(served, ("a", "1"), ("b", "1"))
    assert models.default_name is None
    with pytest.raises(UnknownModel, match=r"^No model is named, and there is no default: the models are 'a', 'b'\.$"):
        models.find(None)
    with pytest.raises(UnknownModel, match=r"no model 'c' here: the models are 'a', 'b'"):
        models.find("c")
    with pytest.raises(UnknownModel, match=r"no model 'a@2' here: the models are 'a@1'"):
        models.find("a@2")
    with pytest.raises(UnknownModel, match=r"no model 'b' here: the models are 'a'"):
        fill(served, ("a", "1"), default="b").find(None)
    with pytest.raises(UnknownModel, match="no model is served"):
        Models().find(None)


def test_one_takes_the_place_of_another(served: ServedModel) -> None:
    """At once; the one that was found before is left as it was."""
    models = fill(served, ("a", "1"))
    old = models.find("a")
    new = replace(old, version="2")
    models.change(old, new)
    assert (models.find("a"), models.find(None), old.version) == (new, new, "1")
    assert models.names_of(new) == ["a", "a@2"]
    models.change(new, None)
    assert list(models) == []


def request_to(models: Models, **headers: str) -> Request:
    """Make a request to a service of some models."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {SERVICE: SimpleNamespace(models=models), EXCHANGE: Exchange("id", "POST")}
    return Request({"type": "http", "headers": pairs, **scope})


def test_another_hash_than_expected_is_refused(served: ServedModel) -> None:
    """The error tells which it is, and what is counted of the request names the model all the same."""
    models = fill(served, ("a", "1"))
    request = request_to(models, x_expect_model=served.session.sha256)
    assert encoding.find_model(request, "a").spec is served.spec
    request = request_to(models, x_expect_model="0" * 64)
    with pytest.raises(UnexpectedModel, match=served.session.sha256):
        encoding.find_model(request, "a")
    assert (request.scope[EXCHANGE].model, request.scope[EXCHANGE].version) == ("a", "1")


def test_a_body_is_read_where_any_model_has_room(artifact: Path) -> None:
    """Until it is known which it is for; then its own queue decides."""
    loader = Loader(Settings(model=artifact, max_sequence_steps=10, max_request_steps=10, max_queue_steps=10))
    models = Models()
    full, empty = (replace(loader.open(artifact, models), name=name) for name in ("full", "empty"))
    for model in (full, empty):
        models.change(None, model)
    loader.queues.submit(full.queue, Job([10]), 0.0)
    loader.queues.require_room([model.queue for model in models], 0.0)
    with pytest.raises(QueueFull):
        loader.queues.require_room([full.queue], 0.0)
    loader.queues.submit(empty.queue, Job([10]), 0.0)
    with pytest.raises(QueueFull):
        loader.queues.require_room([model.queue for model in models], 0.0)


def test_the_first_models_arrangement_is_everyones(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runners are shared: who comes later runs with as many threads, and is not tried with others."""
    monkeypatch.setattr(calibrate, "available_cpus", lambda: 2)  # of one there is one arrangement
    settings: dict[str, Any] = {"model": artifact, "cache_dir": tmp_path}
    loader, models = Loader(Settings(**settings)), Models()
    first = loader.open(artifact, models)
    later = loader.open(artifact, models)
    chosen = first.calibrator.arrangements[0]
    assert len(first.calibrator.arrangements) > 1
    assert [(one.runners, one.threads) for one in later.calibrator.arrangements] == [(chosen.runners, chosen.threads)]
    assert loader.queues.runners == chosen.runners


@pytest.mark.parametrize("kind", ["triples", "tokens"])
def test_memory_of_large_runs_is_given_back(kind: str) -> None:
    """After one of some 80 MB the process is little larger than before it."""
    session = open_session(ARTIFACTS / f"{kind}.onnx")
    lengths = np.full(20, 20_000)
    steps = np.zeros((20, 20_000), np.int64) if kind == "tokens" else np.zeros((20, 20_000, 3), np.float32)
    trim_heap()  # as the service does, too; what other tests left there is not to count
    before = resident_bytes()
    session.run(Batch(steps, lengths))
    largest = resident_bytes()
    session.release_memory()
    trim_heap()
    assert largest - before > 2**25
    assert resident_bytes() - before < (largest - before) / 4
