"""KServe's own Python client, `pip install kserve`: the bytes it sends, and the client itself if it is installed."""

import asyncio
import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.settings import Settings
from tests.conftest import draw_sequences
from tests.listening import listen

SEQUENCES = draw_sequences([3, 1])
BATCH = pad_batch(SEQUENCES)

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
@pytest.mark.filterwarnings("ignore")  # of its dependencies
@pytest.mark.parametrize("is_raw", [True, False])
def test_kserves_client_infers(
    is_raw: bool,  # noqa: FBT001
    artifact: Path,
    expected: npt.NDArray[np.float32],
) -> None:
    """Its REST client learns that the service is ready, sends what is replayed above, and reads the embeddings."""
    kserve = import_module("kserve")
    infer_type = import_module("kserve.protocol.infer_type")
    inputs = []
    for name, datatype, array in (("sequences", "FP32", BATCH.steps), ("lengths", "INT64", BATCH.lengths)):
        tensor = kserve.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=is_raw)
        inputs.append(tensor)
    wanted = infer_type.RequestedOutput("embedding", {"binary_data": True} if is_raw else None)
    request = kserve.InferRequest("made", inputs, request_id="7", parameters={"tag": "a"}, request_outputs=[wanted])
    sent, length = request.to_rest()
    assert (sent[:length] == RAW_HEAD) if is_raw else (json.loads(json.dumps(sent)) == PLAIN)

    async def ask(url: str) -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "made")
        answer = await client.infer(url, request, model_name="made")
        await client.close()
        return answer

    with listen(create_app(Settings(model=artifact))) as address:
        answer = asyncio.run(ask(f"http://{address}"))
    assert answer.outputs[0].as_numpy().astype(np.float32).tobytes() == expected.tobytes()
