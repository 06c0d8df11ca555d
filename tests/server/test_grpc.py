"""The Open Inference Protocol over gRPC, judged by Triton's own client, and each way a call is refused."""

import asyncio
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import pack
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from bench.load.launch import start_service
from bench.load.servers import find_port
from bench.speed.path import live
from service.api.front import Front
from service.api.problems import REFUSALS, TYPE_PREFIX
from service.api.routing import Service
from service.app import create_app
from service.batching.sharing import Queues
from service.codecs.kserve import messages
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.errors import InvalidRequest, MalformedBody, RequestTooLong, StartupError
from service.server.rpc.failing import code_of
from service.server.rpc.listening import Listener
from service.server.rpc.reserving import reserve_port
from service.server.rpc.streaming import PLACES
from service.settings import Settings
from tests.conftest import ARTIFACTS, draw_sequences

SEQUENCES = draw_sequences([3, 1])
BATCH = pad_batch(SEQUENCES)


@contextmanager
def call(app: Front) -> Iterator[str]:
    """Answer calls of gRPC from a thread of this process, and yield the address."""
    began: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def run() -> None:
        over = asyncio.Event()
        async with live(app):
            listener = Listener(app.state.service, app.fallback)
            began.put((await listener.start(), asyncio.get_running_loop(), over))
            await over.wait()
            app.state.service.is_draining = True
            await listener.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, loop, over = began.get(timeout=60)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def make(artifact: Path, **settings: Any) -> Front:
    """Make an app that takes calls on any port."""
    return create_app(Settings(model=artifact, grpc_port=0, drain_seconds=5, **settings))


@pytest.fixture(scope="module")
def expected(artifact: Path) -> npt.NDArray[np.float32]:
    """What the session gives for `SEQUENCES`."""
    return open_session(artifact).run(BATCH)


@pytest.fixture(scope="module")
def address(artifact: Path) -> Iterator[str]:
    """Where the made encoder takes calls."""
    with call(make(artifact)) as found:
        yield found


@pytest.fixture
def official(address: str) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of it."""
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: npt.NDArray[Any]) -> triton.InferInput:
    """Make an input of Triton's client."""
    made = triton.InferInput(name, list(array.shape), {"f": "FP32", "i": "INT64", "O": "BYTES"}[array.dtype.kind])
    made.set_data_from_numpy(array)
    return made


def padded() -> list[triton.InferInput]:
    """Make the inputs that hold `SEQUENCES` as the graph takes them."""
    return [tensor("sequences", BATCH.steps), tensor("lengths", BATCH.lengths)]


def typed(**fields: Any) -> Any:
    """Make a request of `SEQUENCES` with typed contents, as clients without numpy do."""
    request = messages.message("ModelInferRequest", model_name="made", **fields)
    rows, time = BATCH.steps.shape[:2]
    request.inputs.add(name="sequences", datatype="FP32", shape=[rows, time, 3])
    request.inputs[0].contents.fp32_contents.extend(BATCH.steps.ravel())
    request.inputs.add(name="lengths", datatype="INT64", shape=[rows])
    request.inputs[1].contents.int64_contents.extend(BATCH.lengths)
    return request


def ask(address: str, body: bytes, method: str = "ModelInfer", **options: Any) -> Any:
    """Make one call with these bytes, and return the bytes of the answer."""
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(f"/{messages.SERVICE}/{method}")(body, **options)


def fail(address: str, body: bytes, method: str = "ModelInfer", **options: Any) -> tuple[Any, ErrorInfo, Status]:
    """Make one call that fails, and return its error with its details."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(address, body, method, **options)
    error: Any = caught.value
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return error, info, status


def test_names_and_numbers_are_the_protocols() -> None:
    """Each message has the fields of Triton's own, by name, number and type; KServe's answers to load come on top."""

    def describe(kind: Any) -> dict[str, tuple[int, int, bool]]:
        return {field.name: (field.number, field.type, field.is_repeated) for field in kind.fields}

    def walk(kinds: Any) -> Iterator[Any]:
        for kind in kinds:
            yield kind
            yield from walk(kind.nested_types)

    theirs = {kind.full_name: kind for kind in walk(service_pb2.DESCRIPTOR.message_types_by_name.values())}
    ours = messages.POOL.FindFileByName(messages.FILE)
    besides = {"model_name", "isLoaded", "isUnloaded", "properties"}  # of KServe's edition
    for kind in walk(ours.message_types_by_name.values()):
        if kind.name != "PropertiesEntry":
            expected = describe(theirs[kind.full_name])
            found = describe(kind)
            assert {name: field for name, field in found.items() if name in expected} == expected, kind.full_name
            assert found.keys() - expected.keys() <= besides
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        assert method.input_type.full_name == methods[method.name].input_type.full_name


def test_the_official_client_gets_the_bits_of_the_session(
    official: triton.InferenceServerClient, expected: npt.NDArray[np.float32]
) -> None:
    """Padded, and end to end with the parameter `ragged`; the id and the model come back."""
    answer = official.infer("made", padded(), request_id="mine")
    assert answer.as_numpy("embedding").tobytes() == expected.tobytes()
    assert (answer.get_response().id, answer.get_response().model_name) == ("mine", "made")
    ragged = [tensor("sequences", np.concatenate(SEQUENCES)), tensor("lengths", BATCH.lengths)]
    answer = official.infer("made", ragged, model_version="1", parameters={"ragged": True})
    assert answer.as_numpy("embedding").tobytes() == expected.tobytes()


def test_http_and_grpc_give_the_same_bits(artifact: Path, address: str) -> None:
    """Also with the parameter `normalize`."""
    with triton.InferenceServerClient(address) as client, TestClient(make(artifact)) as http:
        for normalize in (False, True):
            body = {"sequences": [steps.tolist() for steps in SEQUENCES], "normalize": normalize}
            found = np.array(http.post("/encode", json=body).json()["embeddings"], dtype=np.float32)
            answer = client.infer("made", padded(), parameters={"normalize": normalize})
            assert answer.as_numpy("embedding").tobytes() == found.tobytes()


def test_typed_contents_are_answered_by_typed_contents(address: str, expected: npt.NDArray[np.float32]) -> None:
    """A client that has no raw bytes need not read any."""
    body = ask(address, typed(id="7").SerializeToString())
    answer = messages.decode("ModelInferResponse", body)
    assert (answer.id, list(answer.outputs[0].shape), list(answer.raw_output_contents)) == ("7", [2, 16], [])
    found = np.array(answer.outputs[0].contents.fp32_contents, dtype=np.float32)
    assert found.tobytes() == expected.tobytes()


def test_the_asynchronous_client_is_answered(address: str, expected: npt.NDArray[np.float32]) -> None:
    """Ten calls at a time."""

    async def run() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            for answer in await asyncio.gather(*(client.infer("made", padded()) for _ in range(10))):
                assert answer.as_numpy("embedding").tobytes() == expected.tobytes()

    asyncio.run(run())


IDS = {"sequences": np.array([[1, 2, 3], [2, 0, 0]]), "lengths": np.array([3, 1])}
TEXTS = {"texts": np.array(["good film", "bad"], dtype=object)}
STEPS = {"sequences": BATCH.steps, "lengths": BATCH.lengths}


@pytest.mark.parametrize(
    ("kind", "arrays"), [("tokens", IDS), ("texts", TEXTS), ("texts-states", TEXTS), ("triples-steps", STEPS)]
)
def test_each_kind_of_encoder_answers_as_over_http(kind: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Token ids, texts, steps and states: every output that the model names has the bits that HTTP gives."""
    app, inputs = make(ARTIFACTS / f"{kind}.onnx"), [tensor(name, array) for name, array in arrays.items()]
    plain = [
        {"name": one.name(), "shape": list(one.shape()), "datatype": one.datatype(), "data": array.ravel().tolist()}
        for one, array in zip(inputs, arrays.values(), strict=True)
    ]
    with TestClient(app) as http:
        name = http.get("/v2/models").json()["models"][0]
        answer = http.post(f"/v2/models/{name}/infer", json={"inputs": plain}).json()
    expected = {one["name"]: np.array(one["data"], dtype=np.float32) for one in answer["outputs"]}
    with call(make(ARTIFACTS / f"{kind}.onnx")) as address, triton.InferenceServerClient(address) as client:
        described = [one.name for one in client.get_model_metadata(name).outputs]
        found = client.infer(name, inputs)
    assert described == [*expected]
    for output, numbers in expected.items():
        assert found.as_numpy(output).tobytes() == numbers.tobytes()


def test_texts_come_typed_or_raw() -> None:
    """`bytes_contents` give the bits that raw texts give; what is not a text is refused by its place."""
    with call(make(ARTIFACTS / "texts.onnx")) as address:
        answers = []
        for raw in (False, True):
            request = messages.message("ModelInferRequest", model_name=name_of("texts"))
            request.inputs.add(name="texts", datatype="BYTES", shape=[2])
            texts = [b"good film", b"bad"]
            if raw:
                request.raw_input_contents.append(b"".join(pack("<I", len(text)) + text for text in texts))
            else:
                request.inputs[0].contents.bytes_contents.extend(texts)
            answer = messages.decode("ModelInferResponse", ask(address, request.SerializeToString()))
            numbers = answer.raw_output_contents[0] if raw else answer.outputs[0].contents.fp32_contents
            answers.append(np.frombuffer(numbers, "<f4") if raw else np.array(numbers, dtype=np.float32))
        assert answers[0].tobytes() == answers[1].tobytes()
        request = messages.message("ModelInferRequest", model_name=name_of("texts"))
        request.inputs.add(name="texts", datatype="BYTES", shape=[1])
        request.inputs[0].contents.bytes_contents.append(b"\xff")
        _, info, _ = fail(address, request.SerializeToString())
        assert info.metadata["path"] == "inputs[0].contents.bytes_contents[0]"


def name_of(kind: str) -> str:
    """Return the name of a made artifact."""
    manifest = open_session(ARTIFACTS / f"{kind}.onnx").manifest
    assert manifest
    return manifest.name


@pytest.mark.parametrize("end", [b"\xff" * 12, b"\x0b", b"\x12\xff\xff\xff\xff\x0f"])
def test_a_large_message_that_is_damaged_is_refused(end: bytes) -> None:
    """A number without end, a group, and a field longer than what is left."""
    whole = typed(id="x" * messages.SMALL_BYTES).SerializeToString()
    with pytest.raises(MalformedBody):
        messages.decode("ModelInferRequest", whole + end)


def test_health_and_reflection_answer(address: str) -> None:
    """Kubernetes' probe and grpcurl's questions are answered, with the protocol's own names."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", messages.SERVICE):
            found = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        told = ProtoReflectionDescriptorDatabase(channel)
        assert messages.SERVICE in told.get_services()
        service = DescriptorPool(told).FindServiceByName(messages.SERVICE)
        assert service.methods_by_name["ModelStreamInfer"].client_streaming


def test_server_and_model_say_what_they_are(official: triton.InferenceServerClient) -> None:
    """Live, ready, metadata and index, as over HTTP."""
    assert official.is_server_live()
    assert official.is_server_ready()
    assert official.is_model_ready("made")
    assert official.get_server_metadata().name == "lengthwise"
    described = official.get_model_metadata("made")
    assert [(one.name, list(one.shape)) for one in described.inputs] == [("sequences", [-1, -1, 3]), ("lengths", [-1])]
    assert [*official.get_server_metadata().extensions] == ["model_repository"]
    states = [(one.name, one.state) for one in official.get_model_repository_index().models]
    assert states == [("made", "READY")]
    with pytest.raises(InferenceServerException, match="Method not found"):
        official.load_model("made")  # there are no admins


def test_a_refusal_has_its_code_place_and_name(address: str) -> None:
    """INVALID_ARGUMENT names the place twice, for people and for programs; NOT_FOUND is what it says."""
    request = typed()
    request.inputs[0].shape[0] = 3
    error, info, status = fail(address, request.SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.domain) == ("INVALID_FIELD", "lengthwise")
    assert info.metadata["path"] == "inputs[0].contents.fp32_contents"
    violations = BadRequest()
    status.details[1].Unpack(violations)
    assert violations.field_violations[0].field == info.metadata["path"]
    assert error.details() == status.message == violations.field_violations[0].description
    error, info, _ = fail(address, typed(model_version="9").SerializeToString())
    assert (error.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    error, info, _ = fail(address, b"\xff\xff")
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.inputs[0].contents.fp32_contents.__setitem__(0, float("nan")), "NON_FINITE_VALUE"),
        (lambda one: one.inputs[1].contents.int64_contents.__setitem__(0, 9), "INVALID_LENGTHS"),
        (lambda one: setattr(one.inputs[0], "datatype", "FP64"), "INVALID_FIELD"),
        (lambda one: setattr(one.inputs[0], "name", "x"), "INVALID_FIELD"),
        (lambda one: one.inputs[0].contents.bytes_contents.append(b"a"), "INVALID_FIELD"),
        (lambda one: one.raw_input_contents.append(b"1234"), "INVALID_FIELD"),
        (lambda one: one.outputs.add(name="steps"), "NOT_OFFERED"),
        (lambda one: one.inputs[0].shape.__setitem__(0, -1), "INVALID_FIELD"),
        (lambda one: one.inputs[0].shape.extend([1] * 9), "INVALID_FIELD"),
        (lambda one: one.parameters["ragged"].__setattr__("int64_param", 1), "INVALID_FIELD"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Any], object], reason: str, address: str) -> None:
    """Numbers, shapes, datatypes, names, contents twice, and parameters of a wrong type."""
    request = typed()
    change(request)
    error, info, _ = fail(address, request.SerializeToString())
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_keys_are_asked_for_as_over_http(artifact: Path) -> None:
    """Without the caller's key nothing but health is told, and the admin's alone loads; KServe's clients may, too."""
    keys = {"api_keys": "callers-key-0123456", "admin_key": "admins-key-01234567"}
    with call(make(artifact, **keys)) as address:
        request = typed().SerializeToString()
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            error, info, _ = fail(address, request, metadata=metadata)
            assert (error.code(), info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_KEY")
        mine: Any
        admins: Any
        mine, admins = (
            {"metadata": (("authorization", f"Bearer {keys[name]}"),)} for name in ("api_keys", "admin_key")
        )
        assert ask(address, request, **mine)
        assert ask(address, b"", "ServerLive")
        for place in ("model_name", "repository_name"):
            body = messages.message("RepositoryModelLoadRequest", **{place: "made"}).SerializeToString()
            error, _, _ = fail(address, body, "RepositoryModelLoad", **mine)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            answer = ask(address, body, "RepositoryModelLoad", **admins)
            assert messages.decode("RepositoryModelLoadResponse", answer).isLoaded
        with triton.InferenceServerClient(address) as client:
            headers = {"authorization": f"Bearer {keys['admin_key']}"}
            client.unload_model("made", headers=headers)
            error, info, _ = fail(address, request, **mine)
            assert error.code() is grpc.StatusCode.NOT_FOUND


def test_the_index_lists_what_is_ready_alone_if_asked(artifact: Path) -> None:
    """A model that was unloaded is in the whole list, with its reason, and not among those that are ready."""
    key = "admins-key-01234567"
    admins: Any = {"metadata": (("authorization", f"Bearer {key}"),)}
    with call(make(artifact, admin_key=key)) as address:
        for is_loaded in (True, False):
            for ready in (True, False):
                body = messages.message("RepositoryIndexRequest", ready=ready).SerializeToString()
                found = messages.decode("RepositoryIndexResponse", ask(address, body, "RepositoryIndex"))
                assert [one.name for one in found.models] == ["made"] * (is_loaded or not ready)
            body = messages.message("RepositoryModelUnloadRequest", model_name="made").SerializeToString()
            if is_loaded:
                ask(address, body, "RepositoryModelUnload", **admins)


def test_a_draining_service_is_live_and_not_ready(artifact: Path) -> None:
    """Server and model both say so, with the name of the problem."""
    app = make(artifact)
    with call(app) as address:
        model = messages.message("ModelReadyRequest", name="made").SerializeToString()
        assert messages.decode("ModelReadyResponse", ask(address, model, "ModelReady")).ready
        app.state.service.is_draining = True
        assert messages.decode("ServerLiveResponse", ask(address, b"", "ServerLive")).live
        for method, body in (("ServerReady", b""), ("ModelReady", model)):
            error, info, _ = fail(address, body, method)
            assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


def test_an_expected_model_is_held_to(address: str, artifact: Path) -> None:
    """`x-expect-model` is metadata, and what answered is told in the trailing metadata."""
    request = typed().SerializeToString()
    error, info, _ = fail(address, request, metadata=(("x-expect-model", "0" * 64),))
    assert (error.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UNEXPECTED_MODEL")
    with grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        _, made = asked.with_call(request, metadata=(("x-request-id", "mine-2"),))
    told = dict(made.trailing_metadata())
    assert told["x-request-id"] == "mine-2"
    assert told["x-model-sha"] == open_session(artifact).sha256


@contextmanager
def held(app: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let runs of an app wait on threads until an event; yield that."""
    model = app.state.service.models.find(None)
    monkeypatch.setattr(Queues, "is_little", lambda *_: False)  # or the event loop would wait
    go, run = threading.Event(), type(model.session).run

    def wait(session: Any, *arguments: Any, **options: Any) -> Any:
        assert go.wait(60)
        return run(session, *arguments, **options)

    monkeypatch.setattr(type(model.session), "run", wait)
    try:
        yield go
    finally:
        go.set()


def await_that(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_cancelled_call_leaves_the_queue(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is withdrawn and counted as a hang-up, and others are answered."""
    app = make(artifact, runners=1)
    service = app.state.service
    with call(app) as address, held(app, monkeypatch) as go, grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        request = typed().SerializeToString()
        runs = asked.future(request)
        await_that(lambda: bool(service.engine.queues.running))
        waits = asked.future(request)
        await_that(lambda: service.telemetry.inflight == 2)
        waits.cancel()
        await_that(lambda: service.telemetry.inflight == 1)
        assert service.telemetry.of("made").cancelled["queue"] == 1
        go.set()
        assert runs.result(60)


def test_a_full_queue_is_resource_exhausted_with_a_time(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RetryInfo has what Retry-After has."""
    app = make(artifact, runners=1, max_queue_steps=6, max_request_steps=6, max_sequence_steps=6)
    service = app.state.service
    with call(app) as address, held(app, monkeypatch) as go, grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        request = typed().SerializeToString()
        runs = asked.future(request)
        await_that(lambda: bool(service.engine.queues.running))
        waits = asked.future(request)
        await_that(lambda: service.telemetry.inflight == 2)
        error, info, status = fail(address, request)
        assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        retry = RetryInfo()
        status.details[-1].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
        go.set()
        assert runs.result(60)
        assert waits.result(60)


def test_the_deadline_of_a_call_is_the_requests(artifact: Path) -> None:
    """One that cannot be met is refused at once, though the call would have waited."""
    app = make(artifact)
    costs = app.state.service.models.find(None).calibrator.costs
    request = messages.message("ModelInferRequest", model_name="made", raw_input_contents=[bytes(4 * 3 * 8000)])
    request.inputs.add(name="sequences", datatype="FP32", shape=[1, 8000, 3])
    with call(app) as address:
        assert ask(address, request.SerializeToString(), timeout=600)
        costs.learn((1, 8192), 2000.0)
        error, info, _ = fail(address, request.SerializeToString(), timeout=9.0)
        assert (error.code(), info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")


def infer(client: triton.InferenceServerClient, ids: list[str], **options: Any) -> dict[str, Any]:
    """Ask a stream for each id, and return what came by it."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)), **options)
    for one in ids:
        client.async_stream_infer("made", padded(), request_id=one)
    found = {}
    for _ in ids:
        result, error = came.get(timeout=60)
        if error is not None:
            raise error
        found[result.get_response().id] = result
    client.stop_stream()
    return found


def test_a_stream_answers_each_by_its_id(
    official: triton.InferenceServerClient, expected: npt.NDArray[np.float32]
) -> None:
    """Two hundred requests in one stream, more than have a place at a time."""
    found = infer(official, [str(number) for number in range(200)])
    assert len(found) == 200
    assert all(result.as_numpy("embedding").tobytes() == expected.tobytes() for result in found.values())


def test_a_wrong_message_of_a_stream_fails_alone(address: str) -> None:
    """Its answer carries its id and the sentence; those before and after it are answered."""
    wrong = typed(id="wrong")
    wrong.inputs[1].contents.int64_contents[0] = 9
    bodies = [typed(id="a").SerializeToString(), wrong.SerializeToString(), b"\xff", typed(id="b").SerializeToString()]
    with grpc.insecure_channel(address) as channel:
        answers = channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer")(iter(bodies))
        found = [messages.decode("ModelStreamInferResponse", answer) for answer in answers]
    by_id = {one.infer_response.id: one.error_message for one in found}
    assert by_id["a"] == by_id["b"] == ""
    assert by_id["wrong"].startswith("lengths")
    assert "protobuf" in by_id[""]


def test_a_stream_waits_for_room(artifact: Path) -> None:
    """What the queue has no room for is asked again, and nothing of it is refused."""
    app = make(artifact, runners=1, max_queue_steps=6, max_request_steps=6, max_sequence_steps=6)
    with call(app) as address, triton.InferenceServerClient(address) as client:
        assert len(infer(client, [str(number) for number in range(100)])) == 100


def test_a_stream_takes_no_more_than_it_answers(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is answered, few messages are taken in; gRPC's flow control holds the client back."""
    app, sent = make(artifact, runners=1), list[int]()
    body: bytes = typed(id="x" * 60_000).SerializeToString()

    def give(number: int) -> bytes:
        sent.append(number)
        return body

    with call(app) as address, held(app, monkeypatch) as go, grpc.insecure_channel(address) as channel:
        bodies = map(give, range(1000))
        answers = channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer")(bodies)
        await_that(lambda: app.state.service.telemetry.inflight == PLACES)
        seen = -1
        while seen != len(sent):  # until the client is held back
            seen = len(sent)
            time.sleep(0.2)
        assert PLACES <= seen < PLACES + 8
        go.set()
        assert sum(1 for _ in answers) == 1000


def test_a_stream_without_a_key_ends(artifact: Path) -> None:
    """It is UNAUTHENTICATED as a whole."""
    with call(make(artifact, api_keys="callers-key-0123456")) as address, grpc.insecure_channel(address) as channel:
        asked = channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(asked(iter([typed().SerializeToString()])))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer callers-key-0123456"),)
        assert len(list(asked(iter([typed().SerializeToString()]), metadata=metadata))) == 1


def test_a_message_is_bounded_before_and_after_decompression(artifact: Path) -> None:
    """A message over the limit is RESOURCE_EXHAUSTED, also one that gzip made small."""
    with call(make(artifact, max_body_bytes=100_000)) as address:
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            with pytest.raises(grpc.RpcError) as caught:
                ask(address, bytes(1_000_000), compression=compression)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "part",
    [b"\x2a\x00", b"\x22\x00", b"\x2a\x04\x22\x02\x12\x00"],
    ids=["inputs", "parameters", "parameters of an input"],
)
def test_many_small_parts_are_refused_before_they_are_objects(part: bytes) -> None:
    """Two bytes can become a hundred in memory, so that a body of millions of them is not decoded."""
    with pytest.raises(MalformedBody, match="1000 fields"):
        messages.decode("ModelInferRequest", part * 40_000, max_texts=1000)
    long_shape = b"\x2a\xc8\x80\x08\x1a\xc4\x80\x08" + b"\x01" * (2**17 + 0x44)
    with pytest.raises(MalformedBody, match="axes"):
        messages.decode("ModelInferRequest", long_shape, max_texts=1000)


def test_many_small_integers_are_refused_before_they_are_eight_bytes_each() -> None:
    """A body of 30 MB would become 240 MB, and more while it grows; as many as raw contents can hold are read."""
    half = write_field(5, write_field(5, write_field(3, b"\x07" * (messages.MAX_INTEGERS // 2))))
    read = messages.decode("ModelInferRequest", half * 2)
    assert sum(len(tensor.contents.int64_contents) for tensor in read.inputs) == messages.MAX_INTEGERS
    with pytest.raises(MalformedBody, match="more than 4194304 integers in typed contents: send them in raw_input_co"):
        messages.decode("ModelInferRequest", half * 2 + write_field(5, write_field(5, write_field(3, b"\x07"))))


def write_field(number: int, content: bytes) -> bytes:
    """Return a field of bytes as protobuf has it."""
    size = len(content)
    length = bytes((size >> shift & 0x7F) | (0x80 if size >> shift + 7 else 0) for shift in range(0, 35, 7))
    return bytes([number << 3 | 2]) + length.rstrip(b"\0") + content


def test_a_large_message_is_read() -> None:
    """Raw, and typed with a text a field: what the bound lets through is what it should."""
    request = messages.message("ModelInferRequest", model_name="made")
    request.inputs.add(name="texts", datatype="BYTES", shape=[900])
    request.inputs[0].contents.bytes_contents.extend([b"x" * 100] * 900)
    body = request.SerializeToString()
    assert len(body) > messages.SMALL_BYTES
    assert len(messages.decode("ModelInferRequest", body, max_texts=900).inputs[0].contents.bytes_contents) == 900
    with pytest.raises(RequestTooLong):
        messages.decode("ModelInferRequest", body, max_texts=899)


@given(body=st.binary(max_size=300), position=st.integers(0, 200), kind=st.sampled_from(["random", "damaged"]))
def test_damaged_messages_are_refused_and_never_unforeseen(
    body: bytes,
    position: int,
    kind: str,
    parse: Callable[[bytes], object],
) -> None:
    """Random bytes, and right messages with some of their bytes replaced."""
    whole = typed().SerializeToString()
    damaged = body if kind == "random" else whole[:position] + body[:3] + whole[position + 3 :]
    with suppress(InvalidRequest, RequestTooLong):
        parse(damaged)


@pytest.fixture(scope="module")
def parse() -> Callable[[bytes], object]:
    """Reads a message as far as sequences."""
    from service.codecs.kserve import inference
    from service.encoder.sequences import Features, InputSpec

    limits = Settings().limits
    signature = inference.Signature(InputSpec(Features(3)), {"embedding": "embedding"}, "made", "1", limits)

    def read(body: bytes) -> object:
        question = messages.parse(messages.decode("ModelInferRequest", body, 100), signature)
        return question.read(signature.spec)

    return read


def test_every_problem_has_a_code() -> None:
    """And the code is one of gRPC's."""
    for refusal in REFUSALS.values():
        assert code_of(TYPE_PREFIX + refusal.name, 0) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


def test_calls_that_wait_to_be_looked_at_are_not_dropped(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3000 that come while the event loop is busy, none is cancelled, as gRPC does by default beyond 1000."""
    go = threading.Event()
    monkeypatch.setattr(Service, "require_progress", lambda _: go.wait(60))
    with call(make(artifact, max_connections=4000)) as address, grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(f"/{messages.SERVICE}/ServerLive")
        answers = [asked.future(b"") for _ in range(3000)]
        go.set()
        assert all(answer.result(60) for answer in answers)


def test_workers_share_the_port_of_grpc_with_each_other_alone() -> None:
    """Another service cannot take it, nor one with several workers, and 0 is the same free port for all of them."""
    kept, port = reserve_port(Settings(grpc_port=0))
    with kept:
        for _ in range(2):  # as two workers do
            shared = socket.socket()
            kept.enter_context(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind(("127.0.0.1", port))
            shared.listen()
        with pytest.raises(StartupError, match=f"127.0.0.1:{port} cannot be listened on for gRPC: Address already"):
            reserve_port(Settings(grpc_port=port))
    reserve_port(Settings(grpc_port=port))[0].close()


def test_a_second_service_does_not_take_the_port_of_grpc(artifact: Path) -> None:
    """It ends with one sentence, though it has several workers, too, which could share the port."""
    port = find_port()
    flags = ("--model", str(artifact), "--processes", "2", "--grpc-port", str(port))
    with start_service(*flags), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        with pytest.raises(RuntimeError, match="cannot be listened on for gRPC"), start_service(*flags):
            pass


def test_tls_is_spoken_with_the_same_certificate(artifact: Path, certificate: tuple[Path, Path]) -> None:
    """And nothing else is."""
    file, key = certificate
    with call(make(artifact, ssl_certfile=file, ssl_keyfile=key)) as address:
        trusted = grpc.ssl_channel_credentials(file.read_bytes())
        with grpc.secure_channel(address, trusted) as channel:
            assert channel.unary_unary(f"/{messages.SERVICE}/ServerLive")(b"")
        with pytest.raises(grpc.RpcError):
            ask(address, b"", "ServerLive", timeout=5)
