"""Artifacts that come, change and go, as files and over HTTP, while requests are answered."""

import asyncio
import errno
import gc
import json
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from pydantic import ValidationError
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from bench.load.launch import start_service
from service.app import create_app
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.findings import Proven
from service.costs.calibrate import Calibrator
from service.encoder.sequences import Batch, Embeddings, pad_batch
from service.encoder.session import open_session
from service.errors import StartupError
from service.settings import Settings
from tests.api.test_encode import PAIR
from tests.conftest import draw_sequences
from tests.encoder.test_session import edit, edit_manifest
from tests.made import take
from tests.waiting import wait_until

KEY = "a-key-of-admins-only"
ADMIN = {"Authorization": f"Bearer {KEY}"}
SENT = draw_sequences([5, 2])

Start = Callable[..., TestClient]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Artifacts of models `a` and `b`, of two versions of `a`, and of `a` trained anew."""
    folder = tmp_path_factory.mktemp("originals")
    return {
        "a": take("triples", folder / "a", name="a").read_bytes(),
        "a anew": take("triples-anew", folder / "a-anew", name="a").read_bytes(),
        "a@2": take("triples-third", folder / "a2", name="a", version="2").read_bytes(),
        "b": take("pairs", folder / "b", name="b").read_bytes(),
    }


@pytest.fixture
def folder(tmp_path: Path, originals: dict[str, bytes]) -> Path:
    """A folder with models `a` and `b`."""
    (tmp_path / "models").mkdir()
    for name in "ab":
        put(tmp_path / "models" / f"{name}.onnx", originals[name])
    return tmp_path / "models"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Serve the folder, without anyone watching it."""
    clients: list[TestClient] = []

    def serve(**settings: Any) -> TestClient:
        app = create_app(Settings(models=folder, admin_key=KEY, **settings))
        clients.append(TestClient(app, raise_server_exceptions=False))
        return clients[-1].__enter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.upkeep._tell_changes", lambda *_: asyncio.sleep(1e6))
        yield serve
        for client in clients:
            client.__exit__(None, None, None)


def put(path: Path, content: bytes) -> None:
    """Put a file in its place at once, as deployments do."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)


def embed(path: Path) -> list[list[float]]:
    """Return what an artifact gives for what is sent, each sequence alone."""
    session = open_session(path)
    return [session.run(pad_batch([steps]))[0].tolist() for steps in SENT]


def ask(client: TestClient | httpx.Client, model: str | None = None, **headers: str) -> Any:
    """Ask for embeddings."""
    body: dict[str, Any] = {"sequences": [steps.tolist() for steps in SENT]}
    return client.post("/encode", json=body | ({"model": model} if model else {}), headers=headers)


def answer(client: TestClient, model: str | None = None) -> list[list[float]]:
    """Return the embeddings, as float32."""
    response = ask(client, model)
    assert response.status_code == 200, response.text
    rows: list[list[float]] = np.array(response.json()["embeddings"], dtype=np.float32).tolist()
    return rows


def change(client: TestClient | httpx.Client, model: str, what: str) -> Any:
    """Load or unload."""
    return client.post(f"/v2/repository/models/{model}/{what}", headers=ADMIN)


def index(client: TestClient | httpx.Client, **body: Any) -> dict[str, tuple[str, str, str]]:
    """Return version, state and reason of each artifact, by name."""
    states = client.post("/v2/repository/index", json=body).json()
    return {one["name"]: (one["version"], one["state"], one["reason"]) for one in states}


def test_every_artifact_of_a_folder_is_served_under_its_name(start: Start, folder: Path) -> None:
    """Each reads its own features; all dialects name them; nothing is meant if no model is named."""
    client = start()
    assert answer(client, "a") == answer(client, "a@1") == embed(folder / "a.onnx")
    two = client.post("/encode", json={"sequences": [[[0.5, 1.0]]], "model": "b"})
    assert (two.status_code, two.json()["dim"], two.json()["model"]) == (200, 4, "b")
    assert ask(client, "b").status_code == 422  # three features, of which it reads two
    unnamed = ask(client)
    assert (unnamed.status_code, unnamed.json()["type"]) == (404, "urn:lengthwise:problem:unknown-model")
    assert "'a', 'b'" in unnamed.json()["detail"]
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["a", "b"]
    assert client.get("/v2/models").json()["models"] == ["a", "b"]
    assert client.get("/v2/models/b").json()["inputs"][0]["shape"] == [-1, -1, 2]
    for sequences, model in ((SENT[0].tolist(), "a"), ([[0.5, 1.0]], "b")):
        body = {"input": sequences, "model": model}
        assert client.post("/v1/embeddings", json=body).status_code == 200
    npy = client.post("/encode?model=b", content=b"", headers={"Content-Type": "application/x-npy"})
    assert npy.status_code == 422
    lines = client.post(
        "/encode?model=b", content=b"[[1, 2]]\n", headers={"Content-Type": "application/x-ndjson", "Accept": "*/*"}
    )
    assert len(json.loads(lines.text)["embedding"]) == 4


def test_a_default_model_is_what_requests_without_a_name_mean(start: Start) -> None:
    """By a setting; `/info` tells it."""
    client = start(default_model="a")
    assert answer(client) == answer(client, "a")
    assert client.get("/info").json()["default_model"] == "a"


def test_each_model_has_its_own_figures(start: Start) -> None:
    """Memory, measurements and metrics; one model's requests are not counted as another's."""
    client = start()
    ask(client, "a")
    ask(client, "b")  # refused
    models = {model["name"]: model for model in client.get("/info").json()["models"]}
    assert models["a"]["performance"]["runs"] > models["b"]["performance"]["runs"] == 0
    assert all(model["memory_bytes"] >= 0 for model in models.values())
    metrics = client.get("/metrics").text
    assert 'lengthwise_requests_total{code="200",model="a",route="/encode"} 1.0' in metrics
    assert 'lengthwise_requests_total{code="422",model="b",route="/encode"} 1.0' in metrics
    assert 'lengthwise_artifacts_total{change="loaded",model="b"} 1.0' in metrics


def test_a_replaced_file_takes_the_place_of_the_old_one(
    start: Start, folder: Path, originals: dict[str, bytes]
) -> None:
    """Once it is loaded: by another hash, which answers and the header tell, and what is expected of it."""
    client = start()
    old = ask(client, "a").headers["x-model-sha"]
    put(folder / "a.onnx", originals["a anew"])
    assert ask(client, "a").headers["x-model-sha"] == old
    assert change(client, "a", "load").status_code == 200
    assert answer(client, "a") == embed(folder / "a.onnx")
    new = ask(client, "a", **{"X-Expect-Model": old})
    assert (new.status_code, new.json()["path"]) == (412, "X-Expect-Model")
    sha256 = open_session(folder / "a.onnx").sha256
    assert sha256 in new.json()["detail"]
    assert ask(client, "a", **{"X-Expect-Model": sha256}).status_code == 200
    put(folder / "a.onnx", originals["a anew"])
    assert change(client, "a", "load").status_code == 200  # the same bytes: nothing is left to do
    assert 'lengthwise_artifacts_total{change="loaded",model="a"} 2.0' in client.get("/metrics").text


def test_a_new_version_is_served_beside_the_old_one(start: Start, folder: Path, originals: dict[str, bytes]) -> None:
    """The name alone means the newest; a file that is gone takes its version with it."""
    client = start()
    put(folder / "second.onnx", originals["a@2"])
    assert change(client, "a", "load").status_code == 200
    assert answer(client, "a") == answer(client, "a@2") == embed(folder / "second.onnx")
    assert answer(client, "a@1") == embed(folder / "a.onnx")
    assert client.get("/v2/models/a").json()["versions"] == ["2", "1"]
    assert client.get("/v2/models/a/versions/1/ready").status_code == 200
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["a", "a@1", "a@2", "b"]
    (folder / "second.onnx").unlink()
    assert change(client, "a", "load").status_code == 200
    assert answer(client, "a") == embed(folder / "a.onnx")
    assert ask(client, "a@2").status_code == 404


@pytest.mark.parametrize(
    "kind", ["truncated", "no model", "another proof", "no proof", "a name that is a path", "a name that is taken"]
)
def test_a_bad_file_leaves_the_old_one_serving(
    kind: str, start: Start, folder: Path, originals: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused with a reason: to who asked for it, in `/info`, the index, the log and a metric."""
    client = start()
    expected = answer(client, "a")
    (tmp_path / "a.onnx").write_bytes(originals["a"])
    content = {
        "truncated": originals["a anew"][:-100],
        "no model": b"no model",
        "another proof": edit_manifest(
            tmp_path / "a.onnx", lambda manifest: manifest.model_copy(update={"golden": manifest.golden[:0]})
        ),
        "no proof": edit(tmp_path / "a.onnx", lambda model: model.ClearField("metadata_props")),
        "a name that is a path": originals["a anew"].replace(b'"name":"a"', b'"name":"/"'),
        "a name that is taken": originals["b"],
    }[kind]
    put(folder / "a.onnx", content)
    refused = change(client, "a", "load")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")
    assert answer(client, "a") == expected
    info = client.get("/info").json()
    (entry,) = info["refused"]
    assert entry["file"] == "a.onnx"
    assert entry["reason"] == refused.json()["error"]
    assert index(client)["a"] == ("1", "READY", entry["reason"])
    assert 'lengthwise_artifacts_total{change="refused",model="a"} 1.0' in client.get("/metrics").text
    assert "a@1 is served as before" in caplog.text
    assert str(folder) not in refused.text
    put(folder / "a.onnx", originals["a anew"])
    assert change(client, "a", "load").status_code == 200
    assert client.get("/info").json()["refused"] == []
    assert answer(client, "a") == embed(folder / "a.onnx")


def test_what_nobody_foresaw_leaves_the_old_one_serving(
    start: Start, folder: Path, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has it, and the file is refused without a word of it."""
    client = start()
    monkeypatch.setattr("service.catalogue.loading.describe_input", lambda _session: 1 / 0)
    put(folder / "a.onnx", originals["a anew"])
    refused = change(client, "a", "load")
    assert refused.status_code == 400
    assert "loading it failed with ZeroDivisionError" in refused.json()["error"]
    assert ask(client, "a").status_code == 200


def test_names_that_no_request_could_use_are_refused(artifact: Path, tmp_path: Path) -> None:
    """A file without a manifest goes by its own name, which may not do; the setting helps."""
    path = tmp_path / "two words.onnx"
    path.write_bytes(edit(artifact, lambda model: model.ClearField("metadata_props")))
    with pytest.raises(StartupError, match="set LENGTHWISE_MODEL_NAME"):
        create_app(Settings(model=path))
    with TestClient(create_app(Settings(model=path, model_name="words"))) as client:
        assert client.get("/info").json()["models"][0]["name"] == "words"


def test_an_unloaded_model_is_gone_until_it_is_loaded(start: Start, folder: Path) -> None:
    """Its file stays, and no look at the folder brings it back; the index says why."""
    client = start()
    assert change(client, "a", "unload").status_code == 200
    assert ask(client, "a").status_code == 404
    assert index(client)["a"] == ("", "UNAVAILABLE", "it was unloaded")
    assert set(index(client, ready=True)) == {"b"}
    (folder / "a.onnx").touch()
    assert change(client, "b", "load").status_code == 200  # which looks at all
    assert ask(client, "a").status_code == 404
    assert change(client, "a", "load").status_code == 200
    assert ask(client, "a").status_code == 200
    assert change(client, "nowhere", "load").status_code == 404
    assert change(client, "nowhere", "unload").status_code == 404


def test_an_unloaded_model_is_let_go_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cycle holds it nor what goes on in idle time, however much of it is not measured yet."""
    monkeypatch.setattr("service.batching.refining.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("service.upkeep.IDLE_SECONDS", 0.01)
    monkeypatch.setattr(Calibrator, "choose_shape", lambda _: (1, 8))
    trimmed = threading.Event()
    monkeypatch.setattr("service.upkeep.trim_heap", trimmed.set)
    client = start()
    session = weakref.ref(client.app.state.service.models.find("b").session)  # type: ignore[attr-defined]
    gc.disable()
    try:
        assert ask(client, "a").status_code == 200
        assert trimmed.wait(60)
        assert change(client, "b", "unload").status_code == 200
        wait_until(lambda: session() is None)
    finally:
        gc.enable()


def test_only_admins_change_what_is_served(start: Start) -> None:
    """Others are told 401; without an admin key nothing of it is there."""
    client = start()
    assert client.post("/v2/repository/models/a/unload").status_code == 401
    assert ask(client, "a").status_code == 200
    assert client.post("/v2/repository/models/a/load", headers={"Authorization": "Bearer other"}).status_code == 401


@pytest.mark.parametrize("body", ['{"parameters": {"config": "{}"}}', '{"parameters": 5}', "[]", "{"])
def test_what_a_change_may_not_ask(body: str, start: Start) -> None:
    """Files and configurations are not taken over the network."""
    client = start()
    response = client.post("/v2/repository/models/a/load", headers=ADMIN, content=body)
    assert response.status_code == 400
    assert response.json()["error"]


def test_a_request_under_way_is_answered_by_the_model_it_began_with(
    start: Start, folder: Path, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch runs while another takes the model's place, and the rest of it waits; both are the old one's."""
    client = start(runners=1, max_batch_sequences=1)
    expected = embed(folder / "a.onnx")
    session = client.app.state.service.models.find("a").session  # type: ignore[attr-defined]
    began, gate, run = threading.Event(), threading.Event(), session.run

    def wait(batch: Batch) -> Embeddings:
        began.set()
        assert gate.wait(60)
        embeddings: Embeddings = run(batch)
        return embeddings

    monkeypatch.setattr(session, "run", wait)
    queues = client.app.state.service.engine.queues  # type: ignore[attr-defined]
    monkeypatch.setattr(queues, "is_little", lambda _run: False)  # so that runs are left to the runner
    old: list[list[list[float]]] = []
    asking = threading.Thread(target=lambda: old.append(answer(client, "a")))
    asking.start()
    assert began.wait(60)
    put(folder / "a.onnx", originals["a anew"])
    assert change(client, "a", "load").status_code == 200
    gate.set()
    asking.join()
    assert old == [expected]
    assert answer(client, "a") == embed(folder / "a.onnx") != expected


def test_measurements_are_lent_to_a_model_of_the_same_architecture(
    start: Start, folder: Path, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was trained anew costs what it did, and nothing is measured while requests are answered."""
    client = start()
    find = client.app.state.service.models.find  # type: ignore[attr-defined]
    find("a").calibrator.costs.factors = {False: 1.25, True: 2.5}
    monkeypatch.setattr("service.costs.calibrate.measure_run", lambda *_: pytest.fail("it was measured"))
    put(folder / "a.onnx", originals["a anew"])
    assert change(client, "a", "load").status_code == 200
    assert find("a").calibrator.costs.factors == {False: 1.25, True: 2.5}


def test_files_that_are_bad_at_the_start_keep_no_other_from_serving(
    start: Start, folder: Path, originals: dict[str, bytes]
) -> None:
    """A folder is served as far as it is good; drafts, whose names begin with a dot, are not artifacts."""
    put(folder / "c.onnx", originals["a"][:1000])
    (folder / ".d.onnx").write_bytes(b"a draft")
    (folder / "README").write_text("no artifact", encoding="utf-8")
    client = start()
    assert ask(client, "a").status_code == 200
    assert set(index(client)) == {"a", "b", "c"}
    assert index(client)["c"][1] == "UNAVAILABLE"
    assert change(client, "c", "load").status_code == 400


def test_a_folder_that_is_none_ends_the_start(tmp_path: Path) -> None:
    """It is not a service without models by mistake; an empty folder is one that waits for some."""
    with pytest.raises(StartupError, match="is not a folder"):
        create_app(Settings(models=tmp_path / "missing"))
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        assert client.get("/health/ready").status_code == 200
        assert client.post("/encode", json={"sequences": PAIR}).status_code == 404
        assert client.get("/info").json()["models"] == []
        assert client.get("/metrics").status_code == 200


def test_a_folder_that_cannot_be_read_ends_the_start_and_changes_nothing_later(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder of another user, or one that its disk has lost for a while, is not taken for an empty one."""
    client = start()

    def fail(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", fail)
    assert change(client, "a", "load").status_code == 200
    assert {name for name, (_, state, _) in index(client).items() if state == "READY"} == {"a", "b"}
    assert f"{folder} cannot be served: it cannot be read: Permission denied. All is served as before." in caplog.text
    with pytest.raises(StartupError, match=r"it cannot be read: Permission denied\.$"):
        create_app(Settings(models=folder))


def test_a_name_that_is_not_text_is_refused_and_told(start: Start, folder: Path, originals: dict[str, bytes]) -> None:
    """Neither JSON nor metrics could tell of it as it is; whoever asks for either gets the other files."""
    put(folder / os.fsdecode(b"c-\xff.onnx"), originals["b"])
    client = start()
    version, state, reason = index(client)["c-\\udcff"]
    assert (version, state) == ("", "UNAVAILABLE")
    assert reason == "c-\\udcff.onnx cannot be served: its name is not UTF-8."
    assert client.get("/info").json()["refused"] == [{"file": "c-\\udcff.onnx", "reason": reason}]
    assert client.get("/metrics").status_code == 200
    assert ask(client, "a").status_code == 200
    with pytest.raises(ValidationError, match=r"models is .*c-\\udcff, a path that is not UTF-8"):
        Settings(models=folder / "c-\udcff")


def test_a_single_artifact_is_replaced_too(
    artifact: Path, tmp_path: Path, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the name it was given at the start; that one is trusted, and what replaces it is examined."""
    examined = []
    examine = Examiner.examine

    def examine_too(examiner: Examiner, content: bytes, file: str) -> Proven:
        examined.append(content)
        return examine(examiner, content, file)

    monkeypatch.setattr(Examiner, "examine", examine_too)
    path = tmp_path / "one.onnx"
    path.write_bytes(artifact.read_bytes())
    with TestClient(create_app(Settings(model=path, model_name="mine", admin_key=KEY))) as client:
        assert not examined
        put(path, originals["a"])
        assert change(client, "mine", "load").status_code == 200
        assert examined == [originals["a"]]
        assert answer(client, "mine") == embed(path)


def test_triton_clients_load_and_unload(folder: Path, originals: dict[str, bytes]) -> None:
    """The official client's calls, over a socket, with the admin's key in a header."""
    (folder / "bad.onnx").write_bytes(b"bad")
    with start_service("--models", str(folder), "--admin-key", KEY) as (_, url):
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        states = {one["name"]: one for one in client.get_model_repository_index()}
        assert states["a"] == {"name": "a", "version": "1", "state": "READY", "reason": ""}
        assert states["bad"]["state"] == "UNAVAILABLE"
        client.unload_model("a", headers=ADMIN)
        assert not client.is_model_ready("a")
        put(folder / "a.onnx", originals["a anew"])
        client.load_model("a", headers=ADMIN)
        assert client.is_model_ready("a")
        with pytest.raises(InferenceServerException, match="known here"):
            client.load_model("a")
        with pytest.raises(InferenceServerException, match="cannot be served"):
            client.load_model("bad", headers=ADMIN)
        tensor = triton.InferInput("sequences", [1, 5, 3], "FP32").set_data_from_numpy(SENT[0][None])
        found = client.infer("a", [tensor]).as_numpy("embedding")
        assert found.tobytes() == open_session(folder / "a.onnx").run(pad_batch([SENT[0]])).tobytes()
        client.close()


@pytest.mark.parametrize("how", ["watched", "SIGHUP"])
def test_changes_are_noticed(
    how: str, folder: Path, originals: dict[str, bytes], artifact: Path, tmp_path: Path
) -> None:
    """A folder is watched; a single artifact is looked at on SIGHUP."""
    place, flags = folder / "a.onnx", ["--models", str(folder)]
    if how == "SIGHUP":
        place, flags = tmp_path / "one.onnx", ["--model", str(tmp_path / "one.onnx"), "--model-name", "a"]
        place.write_bytes(artifact.read_bytes())
    with start_service(*flags) as (process, url), httpx.Client(base_url=url) as client:
        old = ask(client, "a").headers["x-model-sha"]
        put(place, originals["a anew"])
        if how == "SIGHUP":
            process.send_signal(signal.SIGHUP)
        new = open_session(place).sha256

        def is_new() -> bool:
            response = ask(client, "a")
            assert response.status_code == 200
            assert response.headers["x-model-sha"] in (old, new)
            return bool(response.headers["x-model-sha"] == new)

        wait_until(is_new, seconds=120)
        if how == "watched":
            place.unlink()
            wait_until(lambda: ask(client, "a").status_code == 404, seconds=120)


def test_a_folder_without_models_is_told(start: Start, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is served, since models may come, and a warning says that nothing is served until then."""
    for path in folder.glob("*.onnx"):
        path.unlink()
    client = start()
    assert f"No model is served: {folder} holds no artifact" in caplog.text
    assert "no model is served" in client.post("/encode", json={"sequences": [[[1.0]]]}).json()["detail"]
