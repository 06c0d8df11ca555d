"""The Open Inference Protocol, judged by Triton's own client over a real socket, and each way it is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from bench.load.launch import start_service
from service import __version__
from service.app import create_app
from service.codecs.kserve import inference, tensor_json
from service.encoder.sequences import Features, InputSpec, pad_batch
from service.encoder.session import open_session
from service.errors import LengthwiseError
from service.settings import Settings
from tests.api.test_encode import Serve
from tests.conftest import ARTIFACTS, draw_sequences
from tests.listening import listen

SEQUENCES = draw_sequences([3, 1])
BATCH = pad_batch(SEQUENCES)
FLAT = BATCH.steps.ravel().tolist()


def tensor(name: str, array: npt.NDArray[Any], *, binary: bool = True) -> triton.InferInput:
    """Make an input of Triton's client."""
    datatype = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}[array.dtype.name]
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def padded(*, binary: bool = True) -> list[triton.InferInput]:
    """Make the inputs that hold `SEQUENCES` as the graph takes them."""
    return [tensor("sequences", BATCH.steps, binary=binary), tensor("lengths", BATCH.lengths, binary=binary)]


@pytest.fixture(scope="module")
def expected(artifact: Path) -> npt.NDArray[np.float32]:
    """What the session gives for `SEQUENCES`."""
    return open_session(artifact).run(BATCH)


@pytest.fixture(scope="module")
def official(artifact: Path) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of a service that listens."""
    with listen(create_app(Settings(model=artifact))) as address, triton.InferenceServerClient(address) as client:
        yield client


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("compression", ["gzip", "deflate", None])
def test_tritons_client_gets_embeddings(
    binary_in: bool,  # noqa: FBT001
    binary_out: bool | None,  # noqa: FBT001
    compression: str | None,
    official: triton.InferenceServerClient,
    expected: npt.NDArray[np.float32],
) -> None:
    """Raw or JSON, compressed or not, each way: the bits are those of the session, and the id comes back."""
    outputs = None if binary_out is None else [triton.InferRequestedOutput("embedding", binary_data=binary_out)]
    inputs = padded(binary=binary_in)
    result = official.infer(
        "made", inputs, request_id="mine", outputs=outputs, request_compression_algorithm=compression
    )
    assert result.as_numpy("embedding").tobytes() == expected.tobytes()
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("made", "1", "mine")
    assert ("data" in answer["outputs"][0]) == (binary_out is False)


def test_tritons_client_learns_what_is_served(official: triton.InferenceServerClient) -> None:
    """Server and model are live and ready, and the metadata tell the tensors of the graph."""
    assert official.is_server_live()
    assert official.is_server_ready()
    assert official.is_model_ready("made")
    assert official.is_model_ready("made", "1")
    assert not official.is_model_ready("other")
    assert official.get_server_metadata() == {
        "name": "lengthwise",
        "version": __version__,
        "extensions": ["binary_tensor_data", "statistics"],
    }
    metadata = official.get_model_metadata("made")
    assert metadata == official.get_model_metadata("made", "1")
    assert metadata == {
        "name": "made",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "sequences", "datatype": "FP32", "shape": [-1, -1, 3]},
            {"name": "lengths", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 16]}],
    }


def test_lengths_may_be_left_out_and_versions_named(
    official: triton.InferenceServerClient, expected: npt.NDArray[np.float32]
) -> None:
    """Without lengths every sequence is as long as the tensor; the version is the one in the metadata."""
    full = official.infer("made", [tensor("sequences", SEQUENCES[0][None])], model_version="1")
    assert full.as_numpy("embedding").tobytes() == expected[:1].tobytes()


def test_ragged_sequences_come_end_to_end(
    official: triton.InferenceServerClient, expected: npt.NDArray[np.float32]
) -> None:
    """With the parameter `ragged` no padding is sent at all."""
    inputs = [tensor("sequences", np.concatenate(SEQUENCES)), tensor("lengths", np.array([3, 1]))]
    result = official.infer("made", inputs, parameters={"ragged": True})
    assert result.as_numpy("embedding").tobytes() == expected.tobytes()


def test_a_timeout_is_in_microseconds(official: triton.InferenceServerClient) -> None:
    """A quarter of a second is 250000; one is too short, and a minute is not."""
    signature = inference.Signature(InputSpec(Features(3)), {"embedding": "embedding"}, "made", "1", Settings().limits)
    body = json.dumps({**make(), "parameters": {"timeout": 250_000}}).encode()
    assert inference.parse(body, None, signature).timeout_seconds == 0.25
    assert inference.parse(TEXT, None, signature).timeout_seconds is None
    with pytest.raises(InferenceServerException) as caught:
        official.infer("made", padded(), timeout=1)
    assert caught.value.status() == "504"
    official.infer("made", padded(), timeout=60_000_000)


@pytest.mark.parametrize(
    ("model", "version", "inputs", "status", "message"),
    [
        ("other", "", padded(), "404", "There is no model 'other' here: the models are 'made'."),
        ("made", "2", padded(), "404", "There is no model 'made@2' here: the models are 'made@1'."),
        ("made", "", padded()[1:], "400", "inputs is without sequences: expected an input of this name."),
        (
            "made",
            "",
            [tensor("sequences", BATCH.steps[:, :2, :2].copy())],
            "400",
            "sequences has 2 features: the model reads 3 in each step.",
        ),
        (
            "made",
            "",
            [tensor("sequences", np.zeros((2, 3, 5), np.float32))],
            "400",
            (
                "sequences has 5 features: the model reads 3 in each step, and the sequence has 3 steps: "
                "channels-first data must be transposed."
            ),
        ),
        (
            "made",
            "",
            [tensor("sequences", np.zeros((1, 9000, 3), np.float32))],
            "413",
            "sequences[0] has 9000 steps: the limit is 8192, set by LENGTHWISE_MAX_SEQUENCE_STEPS.",
        ),
        (
            "made",
            "",
            [tensor("sequences", np.full((1, 2, 3), np.nan, np.float32))],
            "400",
            "sequences[0][0][0] is not finite as float32: NaN, infinities and magnitudes over 3.4e38 are refused.",
        ),
        (
            "made",
            "",
            [tensor("texts", np.array([b"so"], dtype=object))],
            "400",
            "inputs[0] holds texts, and the model has no tokenizer: send sequences.",
        ),
    ],
)
def test_tritons_client_is_told_what_is_wrong(
    model: str, version: str, inputs: Any, status: str, message: str, official: triton.InferenceServerClient
) -> None:
    """Its exception carries our sentence."""
    with pytest.raises(InferenceServerException) as caught:
        official.infer(model, inputs, version)
    assert (caught.value.status(), caught.value.message()) == (status, message)


def test_a_draining_service_is_not_ready(serve: Serve) -> None:
    """It stays live; server, model and inference answer 503 with the protocol's error."""
    client = serve()
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    for path in ("/v2/health/ready", "/v2/models/made/ready"):
        response = client.get(path)
        assert (response.status_code, set(response.json())) == (503, {"error"})
        assert response.headers["retry-after"] == "1"
    assert post(client, {"inputs": []})[0] == 503
    assert client.get("/v2/health/live").json() == {"live": True}


def test_texts_and_token_ids_are_inputs() -> None:
    """Texts give what their tokens give, raw and in JSON; zeros behind tokens are padding without lengths, too."""
    path = ARTIFACTS / "texts.onnx"
    with listen(create_app(Settings(model=path))) as address, triton.InferenceServerClient(address) as client:
        inputs = client.get_model_metadata("made")["inputs"]
        ids = client.infer("made", [tensor("sequences", np.array([[2, 3, 1], [3, 0, 0]]))]).as_numpy("embedding")
        for binary in (True, False):
            texts = tensor("texts", np.array(["so it goes", "it"], dtype=object), binary=binary)
            assert client.infer("made", [texts]).as_numpy("embedding").tobytes() == ids.tobytes()
        alone = client.infer(
            "made",
            [tensor("sequences", np.array([2, 3, 1, 3])), tensor("lengths", np.array([3, 1]))],
            parameters={"ragged": True},
        )
        assert alone.as_numpy("embedding").tobytes() == ids.tobytes()
        with pytest.raises(InferenceServerException, match="lengths beside texts"):
            client.infer("made", [texts, tensor("lengths", np.array([3, 1]))])
    assert [part["name"] for part in inputs] == ["sequences", "lengths", "texts"]
    assert (inputs[0]["datatype"], inputs[0]["shape"]) == ("INT64", [-1, -1])
    assert (inputs[2]["datatype"], inputs[2]["shape"]) == ("BYTES", [-1])


def test_steps_and_states_are_tensors_of_their_own() -> None:
    """Steps are padded as the request is, or end to end; a state given back goes on where the sequence ended."""
    path = ARTIFACTS / "parts-lstm.onnx"
    expected = open_session(path).run_all(BATCH)
    with listen(create_app(Settings(model=path))) as address, triton.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata("made")
        result = client.infer("made", padded())
        ragged = client.infer(
            "made",
            [tensor("sequences", np.concatenate(SEQUENCES)), tensor("lengths", np.array([3, 1]))],
            outputs=[triton.InferRequestedOutput("steps")],
            parameters={"ragged": True},
        )
        first = client.infer("made", [tensor("sequences", SEQUENCES[0][None, :2])])
        states = [tensor(f"initial_{name}", first.as_numpy(f"state_{name}")) for name in "hc"]
        second = client.infer("made", [tensor("sequences", SEQUENCES[0][None, 2:]), *states])
        broken = tensor("initial_c", np.full((1, 2, 1, 5), np.inf, np.float32))
        with pytest.raises(InferenceServerException, match=r"inputs\[2\] is not finite as float32"):
            client.infer("made", [tensor("sequences", SEQUENCES[0][None, 2:]), states[0], broken])
        with pytest.raises(InferenceServerException, match="without initial_c: expected it beside initial_h"):
            client.infer("made", [tensor("sequences", SEQUENCES[0][None, 2:]), states[0]])
        with pytest.raises(InferenceServerException, match=r"\[1, 2, 1, 5\]: expected \[2, 2, 1, 5\]"):
            client.infer("made", [*padded(), *states])
    shapes = {part["name"]: part["shape"] for part in metadata["inputs"] + metadata["outputs"]}
    assert shapes == {
        "sequences": [-1, -1, 3],
        "lengths": [-1],
        "initial_h": [-1, 2, 1, 5],
        "initial_c": [-1, 2, 1, 5],
        "embedding": [-1, 5],
        "steps": [-1, -1, 5],
        "state_h": [-1, 2, 1, 5],
        "state_c": [-1, 2, 1, 5],
    }
    assert expected.steps is not None
    assert result.as_numpy("steps").tobytes() == expected.steps.tobytes()
    assert result.as_numpy("state_h").tobytes() == expected.state["h"].tobytes()
    assert ragged.as_numpy("steps").tobytes() == np.concatenate([expected.steps[0], expected.steps[1, :1]]).tobytes()
    assert [output["name"] for output in ragged.get_response()["outputs"]] == ["steps"]
    assert second.as_numpy("state_c").tobytes() == expected.state["c"][:1].tobytes()


def test_padded_steps_are_bounded() -> None:
    """Short texts beside a long one would have steps of mostly padding: beyond the limit they come end to end only."""
    path = ARTIFACTS / "texts-steps.onnx"
    settings = Settings(model=path, max_request_steps=100, max_sequence_steps=100)
    with TestClient(create_app(settings)) as client:
        texts = {"name": "texts", "shape": [9], "datatype": "BYTES", "data": ["so " * 20, *["it"] * 8]}
        status, answer = post(client, {"inputs": [texts]})
        assert (status, "9 x 20 padded steps" in answer["error"]) == (400, True)
        status, answer = post(client, {"inputs": [texts], "parameters": {"ragged": True}})
        assert status == 200
        assert [output["shape"] for output in answer["outputs"]] == [[9, 8], [28, 8]]
        few = {"name": "texts", "shape": [101], "datatype": "BYTES", "data": [""] * 101}
        assert post(client, {"inputs": [few]})[0] == 413


def test_kserves_flags_start_the_service(artifact: Path, expected: npt.NDArray[np.float32]) -> None:
    """`--model_name`, `--model_dir` and `--http_port`, as a KServe runtime passes them."""
    flags = ("--model_name=mine", f"--model_dir={artifact.parent}", "--http_port=0")
    with (
        start_service(*flags) as (_, url),
        triton.InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        assert client.is_model_ready("mine")
        assert client.infer("mine", padded()).as_numpy("embedding").tobytes() == expected.tobytes()


def post(client: TestClient, body: bytes | dict[str, Any], **headers: str) -> tuple[int, Any]:
    """Post a body to be inferred; return the status and the JSON, whose shape is the protocol's."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/v2/models/made/infer", content=content, headers=headers)
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    if response.status_code != 200:
        assert set(answer) == {"error"}
    return response.status_code, answer


def make(shape: Any = (2, 3, 3), data: Any = FLAT, datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    """Make a request of one input."""
    return {"inputs": [{"name": "sequences", "shape": list(shape), "datatype": datatype, "data": data, **more}]}


HUGE = 2**40
TEXT = json.dumps(make()).encode()
BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "no JSON": (b"{", "not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT, "not valid JSON"),
    "no object": (b"[]", "The body is a list of 0: expected an object."),
    "no inputs": ({}, "inputs is missing"),
    "inputs no list": ({"inputs": 5}, "inputs is a number"),
    "an input no object": ({"inputs": [5]}, "inputs[0] is a number"),
    "no data": (make(data=None), "inputs[0] is without data"),
    "too few data": (make(data=FLAT[:-1]), "inputs[0].data is a list of 17: expected a list of 18, as the shape says."),
    "nested otherwise": (make(data=np.reshape(FLAT, (3, 2, 3)).tolist()), "inputs[0].data is a list of 3"),
    "nested unevenly": (
        make(data=[[[*FLAT[:3], 0.0], FLAT[:2], FLAT[:3]], [FLAT[:3]] * 3]),
        "inputs[0].data[0][0] is a list of 4: expected a list of 3, as the shape says.",
    ),
    "flat and nested": (make(data=[[1.0], *FLAT[1:]]), "inputs[0].data is a list of 18: expected a list of 2"),
    "a list among numbers": (make(data=[*FLAT[:-1], [1.0]]), "inputs[0].data[17] is a list of 1: expected a number."),
    "a text among numbers": (make(data=[*FLAT[:-1], "1"]), "inputs[0].data[17] is the string '1': expected a number."),
    "NaN": (make(data=[*FLAT[:-1], float("nan")]), "sequences[1][2][2] is not finite"),
    "a wrong datatype": (make(datatype="INT64", data=[1] * 18), "INT64: expected FP32, for sequences."),
    "an unknown datatype": (make(datatype="FP64"), "'FP64': expected one of FP32, INT64, BYTES."),
    "a negative size": (make(shape=[-2, 3, 3]), "inputs[0].shape[0] is a number: expected greater than or equal to 0"),
    "a fractional size": (make(shape=[2.5, 3, 3]), "inputs[0].shape[0] is a number: expected a valid integer"),
    "a huge size": (make(shape=[HUGE, 3, 3]), f"inputs[0].shape is [{HUGE}, 3, 3]: expected at most 8 axes"),
    "a product that overflows": (make(shape=[2**32, 2**32, 3], data=[]), "at most 8 axes and 2147483648 elements"),
    "huge and empty": (make(shape=[HUGE, 0, 3], data=[]), "at most 8 axes and 2147483648 elements"),
    "many axes": (make(shape=[1] * 70, data=[1.0]), "at most 8 axes"),
    "too few axes": (make(shape=[6, 3]), "inputs[0].shape is [6, 3]: expected 3 axes, for sequences."),
    "an unknown input": (
        {"inputs": [{**make()["inputs"][0], "name": "x"}]},
        "'x': expected one of sequences, lengths.",
    ),
    "an input twice": ({"inputs": make()["inputs"] * 2}, "inputs[1].name is sequences again"),
    "an unknown output": ({**make(), "outputs": [{"name": "x"}]}, "outputs[0].name is 'x', and the model gives embed"),
    "an output twice": ({**make(), "outputs": [{"name": "embedding"}] * 2}, "outputs[1].name is embedding again"),
    "another model": ({**make(), "model_name": "x"}, "model_name is 'x' in the body and 'made' in the path: expected"),
    "a model that is not a name": ({**make(), "model_name": 5}, "model_name is a number: expected a valid string"),
    "a negative timeout": ({**make(), "parameters": {"timeout": -1}}, "parameters.timeout is a number"),
    "a key twice": (b'{"inputs": [], "inputs": []}', "'inputs' is given twice"),
    "a right key twice": (TEXT.replace(b"{", b'{"id": "a", "id": "b", ', 1), "'id' is given twice"),
    "a key of an input twice": (TEXT.replace(b'"name"', b'"name": "x", "name"'), "'name' is given twice"),
    "data twice": (TEXT.replace(b'"data"', b'"data": [], "data"'), "'data' is given twice"),
    "nested": (make(data=json.loads("[" * 100 + "]" * 100)), "inputs[0].data is a list of 1: expected a list of 2"),
    "deeply nested": (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    "ragged without lengths": ({**make([6, 3]), "parameters": {"ragged": True}}, "lengths is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_json_is_named(case: str, client: TestClient) -> None:
    """400, and a sentence with the place."""
    body, sentence = BAD[case]
    status, answer = post(client, body)
    assert status == 400
    assert sentence in answer["error"]


@pytest.mark.parametrize(
    ("lengths", "ragged", "sentence"),
    [
        ([3], False, "lengths has 1 entries for 2 sequences."),
        ([3, 4], False, "lengths[1] is 4: expected 0 to 3, the padded steps."),
        ([3, -1], False, "lengths[1] is -1: expected 0 to 3, the padded steps."),
        ([3, 2], True, "lengths sum to 5, and there are 6 steps."),
        ([7, -1], True, "lengths[0] is 7: expected 0 to 6, the steps there are."),
        ([2**62, 2**62], True, f"lengths[0] is {2**62}: expected 0 to 6, the steps there are."),
    ],
)
def test_lengths_that_do_not_fit_are_named(
    lengths: list[int],
    ragged: bool,  # noqa: FBT001
    sentence: str,
    client: TestClient,
) -> None:
    """Padded or ragged, 400 names the first."""
    (sequences,) = make([6, 3] if ragged else [2, 3, 3])["inputs"]
    described = {"name": "lengths", "shape": [len(lengths)], "datatype": "INT64", "data": lengths}
    body = {"inputs": [sequences, described], "parameters": {"ragged": ragged}}
    assert post(client, body) == (400, {"error": sentence})


def pack(raw: bytes, announced: int, shape: tuple[int, ...] = (2, 3, 3), **more: Any) -> tuple[bytes, dict[str, str]]:
    """Make a body of one raw input, and its headers."""
    described = make(shape, parameters={"binary_data_size": announced})
    del described["inputs"][0]["data"]
    described["inputs"][0].update(more)
    text = json.dumps(described).encode()
    return text + raw, {"Inference-Header-Content-Length": str(len(text))}


RAW = BATCH.steps.tobytes()


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (pack(RAW[:-1], 72), "The body is not valid binary: 71 bytes follow its JSON, which announces 72"),
        (pack(RAW + b"x", 72), "73 bytes follow its JSON, which announces 72"),
        (pack(RAW[:-4], 68), "inputs[0].parameters.binary_data_size is 68: expected 72, 4 for each of 18 numbers."),
        (pack(RAW, -72), "inputs[0].parameters.binary_data_size is a number"),
        (pack(RAW, 72, data=FLAT), "inputs[0] is with data twice"),
        (pack(RAW, 72, (2**31, 2**31, 3)), "at most 8 axes and 2147483648 elements"),
        (
            pack(RAW, 72, datatype="INT64"),
            "inputs[0].parameters.binary_data_size is 72: expected 144, 8 for each of 18",
        ),
        (pack(b"\x02\0\0\0so", 6, (2,), datatype="BYTES"), "expected more: text 1 of 2 has no length."),
        (pack(b"\xff\xff\xff\xffso", 6, (1,), datatype="BYTES"), "expected more: text 0 has 4294967295 bytes."),
        (pack(b"\x01\0\0\0so", 6, (1,), datatype="BYTES"), "expected 5, the lengths and bytes of 1 texts."),
        (pack(b"\x01\0\0\0\xff", 5, (1,), datatype="BYTES"), "inputs[0][0] is not UTF-8: expected a text."),
        ((b"{}", {"Inference-Header-Content-Length": "3"}), "Inference-Header-Content-Length is 3, and the body has 2"),
        ((b"{}", {"Inference-Header-Content-Length": "-1"}), "Inference-Header-Content-Length is '-1'"),
        ((b"{}", {"Inference-Header-Content-Length": "9" * 40}), "expected the bytes of the JSON, a whole number."),
    ],
)
def test_bad_binary_is_named(packed: tuple[bytes, dict[str, str]], sentence: str, client: TestClient) -> None:
    """What is cut, goes on, or is of another size than its shape is 400."""
    body, headers = packed
    status, answer = post(client, body, **headers)
    assert (status, sentence in answer["error"]) == (400, True), answer


def test_other_media_types_are_refused(client: TestClient) -> None:
    """JSON and octets are taken, text is 415."""
    body, headers = pack(RAW, 72)
    response = client.post(
        "/v2/models/made/infer", content=body, headers={**headers, "Content-Type": "application/octet-stream"}
    )
    assert response.status_code == 200
    status, answer = post(client, body, **headers, **{"Content-Type": "text/plain"})
    assert (status, answer) == (
        415,
        {"error": "The body is text/plain: expected application/json or application/octet-stream."},
    )


@pytest.mark.parametrize("binary", [True, False])
def test_empty_sequences_are_zero_vectors_where_the_setting_says_so(
    binary: bool,  # noqa: FBT001
    serve: Serve,
) -> None:
    """A tensor without elements is read raw and in JSON, padded and ragged; by default it is refused."""
    for shape, ragged in (((2, 0, 3), False), ((0, 3), True)):
        described = make(shape, [])
        described["inputs"].append({"name": "lengths", "shape": [2], "datatype": "INT64", "data": [0, 0]})
        described["parameters"] = {"ragged": ragged}
        if binary:
            del described["inputs"][0]["data"]
            described["inputs"][0]["parameters"] = {"binary_data_size": 0}
        assert post(serve(), described)[0] == 400
        status, answer = post(serve(empty_sequences="zero"), described)
        assert (status, answer.get("outputs", answer)[0]["data"]) == (200, [0.0] * 32)


def test_requests_of_other_servers_clients_are_taken(client: TestClient) -> None:
    """Parameters this service does not know are passed over, and no output named means all."""
    body = {**make(parameters={"content_type": "np"}), "id": "7", "outputs": [], "parameters": {"priority": 3}}
    status, answer = post(client, body)
    assert (status, answer["id"], [output["name"] for output in answer["outputs"]]) == (200, "7", ["embedding"])


@pytest.mark.parametrize(
    "data",
    [FLAT, BATCH.steps.tolist(), [1] * 18, [*FLAT[:-1], "x"], [*FLAT[:-1], [1]], [[FLAT[:9]], [FLAT[9:]]], FLAT[:-1]],
)
def test_the_fast_reader_takes_nothing_the_exact_one_would_not(data: list[Any]) -> None:
    """What it reads, the exact one reads alike; what the exact one refuses, it leaves."""
    body = json.dumps(make(data=data)).encode()
    fast = tensor_json.read_plain(body)
    try:
        header, (exact,) = tensor_json.read_exact(body)
    except LengthwiseError:
        assert fast is None
        return
    assert fast is not None
    assert fast[0] == header
    assert exact is not None
    assert np.array_equal(fast[1][0], exact)  # type: ignore[arg-type]
