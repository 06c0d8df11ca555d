"""The statistics of the V2 protocol, as Triton's client reads them: what is told is what happened."""

import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from service.app import create_app
from service.observing.statistics import Statistics, join
from service.settings import Settings
from tests.api.test_encode import PAIR
from tests.listening import listen
from tests.made import take
from tests.several import start_two

STAGES = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def official(artifact: Path) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of a service that listens."""
    with listen(create_app(Settings(model=artifact))) as address, triton.InferenceServerClient(address) as client:
        yield client


def ask(client: TestClient, path: str = "/v2/models/stats") -> list[dict[str, Any]]:
    """Ask for statistics."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    return list(response.json()["model_stats"])


def test_statistics_are_zero_before_the_first_request(official: triton.InferenceServerClient) -> None:
    """Triton's client gets every figure, and to ask for them, or about the model, is not an inference."""
    official.get_model_metadata("made")
    official.is_model_ready("made", "1")
    nothing = {"count": 0, "ns": 0}
    told = {
        "name": "made",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys([*STAGES, "fail", "cache_hit", "cache_miss"], nothing),
        "batch_stats": [],
    }
    for asked in ((), ("made",), ("made", "1")):
        assert official.get_inference_statistics(*asked) == {"model_stats": [told]}


def test_statistics_tell_what_was_counted(client: TestClient) -> None:
    """Answers, failures and streams are where they belong, and the times add up to those that were answered."""
    began = 1000 * time.time() - 1
    seconds = 0.0
    for dialect, body in (("encode", {"sequences": PAIR}), ("v1/embeddings", {"model": "made", "input": PAIR})):
        response = client.post(f"/{dialect}", json=body)
        assert response.status_code == 200
        parts = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        seconds += float(parts["run"]) / 1000
    assert client.post("/encode", json={"sequences": [[[1, 2]]]}).status_code == 422
    lines = b"".join(orjson.dumps(sequence) + b"\n" for sequence in PAIR)
    streamed = client.post("/encode", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert streamed.text.count("embedding") == 2
    (told,) = ask(client)
    stages = told["inference_stats"]
    assert {name: stages[name]["count"] for name in STAGES} == dict.fromkeys(STAGES, 2)
    assert stages["fail"]["count"] == 1
    assert stages["fail"]["ns"] > 0
    assert stages["compute_infer"]["ns"] / 1e9 == pytest.approx(seconds, abs=2e-6)  # the header is in microseconds
    assert stages["success"]["ns"] >= sum(stages[name]["ns"] for name in STAGES[1:])
    assert told["inference_count"] == 6
    assert sum(batch["compute_infer"]["count"] for batch in told["batch_stats"]) == told["execution_count"]
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in told["batch_stats"]) == 6
    assert all(set(batch) == {"batch_size", "compute_infer"} for batch in told["batch_stats"])
    assert began <= told["last_inference"] <= 1000 * time.time() + 1


def test_versions_are_counted_apart(tmp_path: Path) -> None:
    """A model is told of with all its versions, each with its own requests, and an unknown one is a 404."""
    for version in ("1", "2"):
        take("triples", tmp_path / f"{version}.onnx", name="a", version=version)
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        for name in ("a", "a@1", "a@2", "a@2"):
            assert client.post("/encode", json={"sequences": PAIR, "model": name}).status_code == 200
        for path, expected in (
            ("/v2/models/stats", {"1": 2, "2": 6}),
            ("/v2/models/a/stats", {"1": 2, "2": 6}),
            ("/v2/models/a@1/stats", {"1": 2}),
            ("/v2/models/a/versions/2/stats", {"2": 6}),
        ):
            assert {one["version"]: one["inference_count"] for one in ask(client, path)} == expected
        for path in ("/v2/models/b/stats", "/v2/models/a/versions/3/stats"):
            refused = client.get(path)
            assert (refused.status_code, "There is no model" in refused.json()["error"]) == (404, True)


def test_a_model_configuration_is_not_offered(official: triton.InferenceServerClient) -> None:
    """Triton's client is told so, and where to look instead; the extensions name what there is."""
    for asked in (("made",), ("made", "1")):
        with pytest.raises(InferenceServerException) as caught:
            official.get_model_config(*asked)
        assert caught.value.status() == "404"
        assert "configurations are not offered here" in caught.value.message()
    assert "statistics" in official.get_server_metadata()["extensions"]


def test_what_several_processes_counted_is_added_up() -> None:
    """Each figure is the sum, each size of batch is there once, and the last inference is the last of all."""
    counted = [Statistics(), Statistics()]
    for number, statistics in enumerate(counted, start=1):
        statistics.count_batches(1, 2, 1, number * 0.5, 10.0 * number)
        statistics.count_batches(1, 2 + number, 0, 0.25, 10.0 * number)
        statistics.count_answers(1, 4.0, 0.5, 1.0, 0.25, 0.125)
    whole, other = (one.write("made", "1") for one in counted)
    joined = join(whole, [other])
    assert (joined["last_inference"], joined["inference_count"], joined["execution_count"]) == (20_000, 9, 4)
    assert joined["inference_stats"]["success"] == {"count": 2, "ns": 8 * 10**9}
    assert joined["batch_stats"] == [
        {"batch_size": 2, "compute_infer": {"count": 2, "ns": 1_500_000_000}},
        {"batch_size": 3, "compute_infer": {"count": 1, "ns": 250_000_000}},
        {"batch_size": 4, "compute_infer": {"count": 1, "ns": 250_000_000}},
    ]
    assert join(whole, []) == whole


def test_statistics_are_of_the_whole_service(artifact: Path) -> None:
    """Whichever of two processes is asked tells what both counted."""
    body = orjson.dumps({"sequences": PAIR})
    with start_two("--model", str(artifact)) as (_, url):
        connections = [HTTPConnection(url.removeprefix("http://"), timeout=60) for _ in range(4)]
        for connection in connections:  # all open, so that they are shared out
            connection.request("POST", "/encode", body)
            assert connection.getresponse().read()
        for connection in connections:
            connection.request("GET", "/v2/models/made/stats")
            (told,) = orjson.loads(connection.getresponse().read())["model_stats"]
            assert told["inference_stats"]["success"]["count"] == 4
            assert told["inference_count"] == 8
            connection.close()
