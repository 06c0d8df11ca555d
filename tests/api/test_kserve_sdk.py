"""KServe's own Python client, `pip install kserve`: the bytes it sends, and the client itself if it is installed."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.codecs.kserve import messages
from service.encoder.session import open_session
from service.settings import Settings
from tests.api.kserve_client import BATCH
from tests.listening import listen
from tests.server.test_grpc import ask as ask_rpc
from tests.server.test_grpc import call, make

# What `InferRequest.to_rest()` of kserve 0.21.0 makes of `BATCH`: data in the JSON, and raw behind it.
PLAIN = {
    "id": "7",
    "model_name": "made",
    "inputs": [
        {"name": "sequences", "shape": [2, 3, 3], "datatype": "FP32", "data": BATCH.steps.ravel().tolist()},
        {"name": "lengths", "shape": [2], "datatype": "INT64", "data": [3, 1]},
    ],
    "outputs": [{"name": "embedding"}],
    "parameters": {"tag": "a"},
}
RAW_HEAD = (
    b'{"id":"7","model_name":"made","inputs":[{"name":"sequences","shape":[2,3,3],"datatype":"FP32","parameters":'
    b'{"binary_data_size":72}},{"name":"lengths","shape":[2],"datatype":"INT64","parameters":{"binary_data_size":16}}],'
    b'"outputs":[{"name":"embedding","parameters":{"binary_data":true}}],"parameters":{"tag":"a"}}'
)

# What `InferRequest.to_grpc()` makes of it: a message that holds raw data, and one that holds typed contents.
START, END = b'\n\x04made\x1a\x017"\n\n\x03tag\x12\x03\x1a\x01a', b"2\x0b\n\tembedding"
MESSAGES = {
    True: START
    + b'*.\n\tsequences\x12\x04FP32\x1a\x03\x02\x03\x03"\x16\n\x10binary_data_size\x12\x02\x10H'
    + b'*+\n\x07lengths\x12\x05INT64\x1a\x01\x02"\x16\n\x10binary_data_size\x12\x02\x10\x10'
    + END
    + b":H%b:\x10%b" % (BATCH.steps.tobytes(), BATCH.lengths.tobytes()),
    False: START
    + b"*b\n\tsequences\x12\x04FP32\x1a\x03\x02\x03\x03*J2H%b" % BATCH.steps.tobytes()
    + b"*\x19\n\x07lengths\x12\x05INT64\x1a\x01\x02*\x04\x1a\x02\x03\x01"
    + END,
}


# Of its dependencies, one that no other package here brings: for its models alone it is installed without them.
NEEDED = ("kserve", "cloudevents")


@pytest.fixture(scope="module")
def expected(artifact: Path) -> npt.NDArray[np.float32]:
    """What the session gives for `SEQUENCES`."""
    return open_session(artifact).run(BATCH)


def test_the_json_of_kserves_client_is_answered(client: TestClient, expected: npt.NDArray[np.float32]) -> None:
    """It names the model in the body, too."""
    response = client.post("/v2/models/made/infer", json=PLAIN)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "made", "1")
    assert np.array(answer["outputs"][0]["data"], np.float32).tobytes() == expected.tobytes()


def test_the_raw_tensors_of_kserves_client_are_answered(client: TestClient, expected: npt.NDArray[np.float32]) -> None:
    """So it does with raw data behind the JSON."""
    headers = {"inference-header-content-length": str(len(RAW_HEAD)), "content-type": "application/octet-stream"}
    body = RAW_HEAD + BATCH.steps.tobytes() + BATCH.lengths.tobytes()
    response = client.post("/v2/models/made/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.content[int(response.headers["inference-header-content-length"]) :] == expected.tobytes()


@pytest.mark.parametrize("is_raw", [True, False])
def test_the_messages_of_kserves_client_are_answered(
    is_raw: bool,  # noqa: FBT001
    artifact: Path,
    expected: npt.NDArray[np.float32],
) -> None:
    """Over gRPC it says in a parameter how many raw bytes a tensor has, and sends a parameter of its own."""
    with call(make(artifact)) as address:
        answer = messages.decode("ModelInferResponse", ask_rpc(address, MESSAGES[is_raw]))
    found = answer.raw_output_contents[0] if is_raw else np.float32(answer.outputs[0].contents.fp32_contents).tobytes()
    assert (answer.id, found) == ("7", expected.tobytes())


@pytest.mark.parametrize("path", ["made", "made@1", "made/versions/1"])
@pytest.mark.parametrize("name", ["made", "made@1", None])
def test_a_model_in_the_body_may_have_its_version(path: str, name: str | None, client: TestClient) -> None:
    """However path and body write the same model, they agree."""
    assert client.post(f"/v2/models/{path}/infer", json={**PLAIN, "model_name": name}).status_code == 200


def test_what_only_other_servers_know_is_passed_over(client: TestClient, expected: npt.NDArray[np.float32]) -> None:
    """Members that the protocol does not name change nothing, wherever they stand and whatever they hold."""
    other: dict[str, Any] = {"priority": 1, "sequence": [[[1.0]]], "more": {"data": [1], "deep": [{"a": []}]}}
    inputs = [{**tensor, **other, "parameters": other} for tensor in PLAIN["inputs"]]  # type: ignore[dict-item]
    outputs = [{"name": "embedding", "parameters": other, **other}]
    for body in ({**other, **PLAIN}, {**PLAIN, "inputs": inputs}, {**PLAIN, "outputs": outputs, "parameters": other}):
        response = client.post("/v2/models/made/infer", json=body)
        assert response.status_code == 200, response.text
        found = np.array(response.json()["outputs"][0]["data"], np.float32)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="the package kserve is not installed, or comes alone")
@pytest.mark.parametrize("is_raw", [True, False])
def test_kserves_clients_infer(
    is_raw: bool,  # noqa: FBT001
    artifact: Path,
    expected: npt.NDArray[np.float32],
) -> None:
    """Over REST and gRPC they learn that the service is ready, send what is replayed above, and read the embeddings."""
    with listen(create_app(Settings(model=artifact))) as web, call(make(artifact)) as address:
        command = [sys.executable, "-m", "tests.api.kserve_client", f"http://{web}", address]
        ran = subprocess.run([*command, "raw" if is_raw else "typed"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert bytes.fromhex(told["message"]) == MESSAGES[is_raw]
    assert told["body"] == (RAW_HEAD.decode() if is_raw else PLAIN)
    assert told["found"] == 2 * [expected.tobytes().hex()]
