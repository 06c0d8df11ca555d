"""What holds in every dialect: the same bits for the same input, its own shape of error, bounded memory."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from service.api import problems
from service.encoder.sequences import pad_batch
from tests.api.test_encode import Serve
from tests.conftest import draw_sequences
from tests.memory import run_within

Sequences = list[npt.NDArray[np.float32]]

SEQUENCES = draw_sequences([7, 1, 19, 3], seed=1)
MIB = 2**20


def send(client: TestClient, path: str, body: bytes | dict[str, Any], **headers: str) -> Any:
    """Post a body; return a response that is an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(path, content=content, headers=headers)
    assert response.status_code == 200, response.text
    return response


def nest(sequences: Sequences) -> Any:
    """Write sequences as nested lists."""
    return [steps.tolist() for steps in sequences]


def read_base64(rows: list[str]) -> npt.NDArray[np.float32]:
    """Read embeddings, each in base64."""
    return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])


def native_base64(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through `/encode`, answered in base64."""
    body = {"sequences": nest(sequences), "encoding_format": "base64"}
    return read_base64(send(client, "/encode", body).json()["embeddings"])


def native_json(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through `/encode`, answered in decimal."""
    return np.array(send(client, "/encode", {"sequences": nest(sequences)}).json()["embeddings"], np.float32)


def openai_base64(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through `/v1/embeddings`, answered in base64."""
    body = {"model": "made", "input": nest(sequences), "encoding_format": "base64"}
    return read_base64([row["embedding"] for row in send(client, "/v1/embeddings", body).json()["data"]])


def openai_json(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through `/v1/embeddings`, answered in decimal."""
    data = send(client, "/v1/embeddings", {"model": "made", "input": nest(sequences)}).json()["data"]
    return np.array([row["embedding"] for row in data], np.float32)


def describe_ragged(sequences: Sequences) -> tuple[list[dict[str, Any]], list[npt.NDArray[Any]]]:
    """Describe sequences as two tensors, without their data."""
    arrays: list[npt.NDArray[Any]] = [np.concatenate(sequences), np.array(list(map(len, sequences)))]
    names = (("sequences", "FP32"), ("lengths", "INT64"))
    described = [
        {"name": name, "datatype": datatype, "shape": array.shape}
        for (name, datatype), array in zip(names, arrays, strict=True)
    ]
    return described, arrays


def kserve_binary(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through the V2 protocol, raw both ways."""
    described, arrays = describe_ragged(sequences)
    for tensor, array in zip(described, arrays, strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    text = json.dumps({"inputs": described, "parameters": {"ragged": True, "binary_data_output": True}}).encode()
    body = text + b"".join(array.tobytes() for array in arrays)
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    response = send(client, "/v2/models/made/infer", body, **headers)
    length = int(response.headers["inference-header-content-length"])
    shape = json.loads(response.content[:length])["outputs"][0]["shape"]
    return np.frombuffer(response.content[length:], "<f4").reshape(shape)


def kserve_json(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through the V2 protocol, in decimal both ways."""
    described, arrays = describe_ragged(sequences)
    for tensor, array in zip(described, arrays, strict=True):
        tensor["data"] = array.ravel().tolist()
    body = {"inputs": described, "parameters": {"ragged": True}}
    (output,) = send(client, "/v2/models/made/infer", body).json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def sagemaker(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed through `/invocations`, answered in decimal."""
    return np.array(send(client, "/invocations", {"sequences": nest(sequences)}).json()["embeddings"], np.float32)


def predict_base64(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed instances, answered in base64."""
    body = {"instances": nest(sequences), "parameters": {"encoding_format": "base64"}}
    return read_base64(send(client, "/v1/models/made:predict", body).json()["predictions"])


def predict_json(client: TestClient, sequences: Sequences) -> npt.NDArray[np.float32]:
    """Embed instances, answered in decimal."""
    predictions = send(client, "/v1/models/made:predict", {"instances": nest(sequences)}).json()["predictions"]
    return np.array(predictions, np.float32)


# Each way in and out; a format that is added to the service is added here.
WAYS: dict[str, Callable[[TestClient, Sequences], npt.NDArray[np.float32]]] = {
    "native base64": native_base64,
    "native JSON": native_json,
    "OpenAI base64": openai_base64,
    "OpenAI JSON": openai_json,
    "V2 binary": kserve_binary,
    "V2 JSON": kserve_json,
    "SageMaker": sagemaker,
    "V1 base64": predict_base64,
    "V1 JSON": predict_json,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_input_gives_the_same_bits(way: str, client: TestClient) -> None:
    """Whatever it is written in, an embedding is the session's to the last bit: decimals are read back as they were."""
    session = client.app.state.service.models.find(None).session  # type: ignore[attr-defined]
    alone = [session.run(pad_one(steps)) for steps in SEQUENCES]
    assert WAYS[way](client, SEQUENCES).tobytes() == np.concatenate(alone).tobytes()


def pad_one(steps: npt.NDArray[np.float32]) -> Any:
    """Make a batch of one sequence."""
    return pad_batch([steps])


DIALECTS = {
    "/encode": (problems.NATIVE, {"type", "title", "status", "detail", "request_id"}),
    "/v1/embeddings": (problems.OPENAI, {"error"}),
    "/v2/models/made/infer": (problems.KSERVE, {"error"}),
    "/invocations": (problems.NATIVE, {"type", "title", "status", "detail", "request_id"}),
    "/v1/models/made:predict": (problems.KSERVE, {"error"}),
}


def dialect_status(path: str) -> int:
    """Return the status of what is wrong in a request."""
    return DIALECTS[path][0].invalid


def refuse(client: TestClient, path: str, content: bytes, method: str = "POST", **headers: str) -> tuple[int, str]:
    """Send what is refused; return the status and the sentence, having checked that the shape is the dialect's."""
    response = client.request(method, path, content=content, headers=headers)
    dialect, fields = next(DIALECTS[known] for known in DIALECTS if path.startswith(known))
    assert response.headers["content-type"] == dialect.media_type
    assert response.headers["x-request-id"]
    body = response.json()
    assert fields <= set(body)
    dialect.schema.model_validate(body)
    sentence = body.get("detail") or body["error"]
    return response.status_code, sentence["message"] if isinstance(sentence, dict) else sentence


@pytest.mark.parametrize("path", DIALECTS)
def test_a_bomb_is_refused_in_bounded_memory(path: str, serve: Serve) -> None:
    """64 MiB in 64 kB, gzip or deflate, are 413 and never held."""
    client = serve(max_body_bytes=2**20)
    for encoding, bomb in (("gzip", gzip.compress(bytes(2**26))), ("deflate", zlib.compress(bytes(2**26)))):
        ask = partial(refuse, client, path, bomb, **{"Content-Encoding": encoding})
        status, sentence = run_within(8 * MIB, ask)
        assert (status, "1048576 bytes" in sentence) == (413, True)


@pytest.mark.parametrize("path", DIALECTS)
def test_a_gigabyte_is_refused_by_its_announcement(path: str, client: TestClient) -> None:
    """A body whose length is over the limit is not read at all."""
    ask = partial(refuse, client, path, b"{}", **{"Content-Length": str(2**30)})
    status, sentence = run_within(2 * MIB, ask)
    assert (status, "LENGTHWISE_MAX_BODY_BYTES" in sentence) == (413, True)


@pytest.mark.parametrize("path", DIALECTS)
def test_many_empty_sequences_are_refused_in_bounded_memory(path: str, client: TestClient) -> None:
    """Ten million of them, written or announced, are 413 before any is made."""
    bodies = {
        "/encode": b'{"sequences": [' + b"[]," * 10_000_000 + b"[]]}",
        "/v1/embeddings": b'{"model": "made", "input": [' + b"[]," * 10_000_000 + b"[]]}",
        "/v2/models/made/infer": b'{"inputs": [{"name": "sequences", "shape": [10000000, 0, 3], "datatype": "FP32", '
        b'"data": []}]}',
        "/invocations": b'{"sequences": [' + b"[]," * 10_000_000 + b"[]]}",
        "/v1/models/made:predict": b'{"instances": [' + b"[]," * 10_000_000 + b"[]]}",
    }
    # The client and the server hold the body once more each.
    assert run_within(80 * MIB, lambda: refuse(client, path, bodies[path]))[0] == 413


def test_many_nested_lists_are_refused_in_bounded_memory(client: TestClient) -> None:
    """V2's data may be nested, too; they are counted before they are read."""
    nested = b"[" + b"[1]," * 7_000_000 + b"[1]]"
    body = b'{"inputs": [{"name": "sequences", "shape": [7000001, 1], "datatype": "FP32", "data": ' + nested + b"}]}"
    assert run_within(80 * MIB, lambda: refuse(client, "/v2/models/made/infer", body))[0] == 413


# Under /v1, what is no route is OpenAI's, and a model's own path may be asked for whatever its name.
@pytest.mark.parametrize("path", [path for path in DIALECTS if not path.endswith(":predict")])
def test_every_error_has_its_dialects_shape(path: str, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong methods, unknown paths, wrong kinds of body, draining and what no one foresaw are told as the rest is."""
    assert refuse(client, path, b"", "GET") == (405, "Method Not Allowed")
    assert refuse(client, f"{path}/nowhere", b"", "GET") == (404, "Not Found")
    assert refuse(client, path, b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert refuse(client, path, b"{}", **{"Content-Encoding": "br"})[0] == 415
    assert refuse(client, path, b"{}", **{"X-Request-Timeout-Ms": "soon"})[0] == dialect_status(path)
    monkeypatch.setattr("service.api.encoding.read_body", lambda *_: 1 / 0)
    assert refuse(client, path, b"{}") == (
        500,
        "The service failed on this request; its log has the reason under the request id.",
    )
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    assert refuse(client, path, b"{}")[0] == 503


def test_every_failure_is_documented_in_its_dialect(client: TestClient) -> None:
    """Each operation's errors have the schema of its dialect, and the examples are of that schema."""
    document = client.get("/openapi.json").json()
    seen = set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status == "200":
                    continue
                dialect = problems.dialect_of(path)
                media = response["content"][dialect.media_type]
                assert media["schema"]["$ref"] == f"#/components/schemas/{dialect.schema.__name__}"
                for example in media["examples"].values():
                    dialect.schema.model_validate(example["value"])
                seen.add((dialect.schema.__name__, status))
    for name in ("OpenAIError", "KServeError"):
        assert {status for schema, status in seen if schema == name} == {
            *("400", "401", "404", "408", "412", "413", "415", "429", "500", "503", "504")
        }
