"""The Python client against the service: what it sends of what it is given, and what comes back."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient
from tokenizers import Tokenizer

from bench.load.launch import start_service
from lengthwise_client import AsyncClient, Client, Refused
from lengthwise_client.formats import Options, choose
from service.app import create_app
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.settings import Settings
from tests.conftest import ARTIFACTS, draw_sequences
from tests.made import take
from tests.relay import Relay

Serve = Callable[..., TestClient]
SEQUENCES = draw_sequences([3, 1, 7])


@pytest.fixture
def relay(client: TestClient) -> Relay:
    """The app with default settings, behind a relay."""
    return Relay(client)


def encode_alone(artifact: Path, sequences: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Return the embeddings that the session gives each sequence."""
    session = open_session(artifact)
    return np.concatenate([session.run(pad_batch([steps])) for steps in sequences])


class Tensor:
    """What other libraries' arrays are to numpy, torch's tensors among them."""

    def __init__(self, steps: npt.NDArray[np.float32]) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> npt.NDArray[np.float32]:
        """Give its numbers to numpy."""
        return np.array(self._steps, dtype=dtype, copy=copy)


WHOLE = [np.rint(9 * steps) for steps in SEQUENCES]
FORMS: dict[str, tuple[Any, list[npt.NDArray[np.float32]]]] = {
    "float32": (SEQUENCES, SEQUENCES),
    "float64": ([steps.astype(np.float64) for steps in SEQUENCES], SEQUENCES),
    "lists": ([steps.tolist() for steps in SEQUENCES], SEQUENCES),
    "integers": ([steps.astype(np.int16) for steps in WHOLE], WHOLE),
    "lists of arrays": ([list(steps) for steps in SEQUENCES], SEQUENCES),
    "tensors": ([Tensor(steps) for steps in SEQUENCES], SEQUENCES),
    "views": ([np.repeat(steps, 2, axis=0)[::2] for steps in SEQUENCES], SEQUENCES),
    "Fortran order": ([np.asfortranarray(steps) for steps in SEQUENCES], SEQUENCES),
    "one array": (np.stack([WHOLE[2], SEQUENCES[2]]), [WHOLE[2], SEQUENCES[2]]),
    "an iterator": (iter(SEQUENCES), SEQUENCES),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_any_kind_are_encoded_bit_for_bit(form: str, relay: Relay, artifact: Path) -> None:
    """Whatever holds the numbers, row i has the bits that the session gives sequence i."""
    given, meant = FORMS[form]
    with relay.connect() as client:
        found = client.encode(given)
    assert found.dtype == np.float32
    assert found.shape == (len(meant), 16)
    assert found.tobytes() == encode_alone(artifact, meant).tobytes()
    assert len(relay.encoded) == 1


def test_no_sequences_give_no_rows(relay: Relay) -> None:
    """An empty list is an empty array of the embedding's width, and no request."""
    with relay.connect() as client:
        assert client.encode([]).shape == (0, 16)
    assert relay.encoded == []


def test_embeddings_are_scaled_where_asked(relay: Relay) -> None:
    """`normalize` gives each embedding the norm 1, in its own direction."""
    with relay.connect() as client:
        plain, scaled = client.encode(SEQUENCES), client.encode(SEQUENCES, normalize=True)
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)  # float32 rounding of the quotient


def test_the_model_may_be_named(relay: Relay) -> None:
    """The right name changes nothing, another is refused."""
    with relay.connect() as client:
        assert client.encode(SEQUENCES, model="made").tobytes() == client.encode(SEQUENCES).tobytes()
        with pytest.raises(Refused) as caught:
            client.encode(SEQUENCES, model="other & another")
    assert (caught.value.problem.status, caught.value.problem.path) == (404, "model")
    assert "'other & another'" in caught.value.problem.detail


def test_a_large_call_is_cut_into_requests_within_the_limit(serve: Serve, artifact: Path) -> None:
    """Each request has as many sequences as the limit on steps allows, and rows come back in the caller's order."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))
    sequences = draw_sequences([1 + n % 13 for n in range(100)])
    with relay.connect() as client:
        found = client.encode(sequences)
    assert found.tobytes() == encode_alone(artifact, sequences).tobytes()
    assert 700 / 20 <= len(relay.encoded) <= 100 / 2


def test_a_large_call_is_cut_by_bytes_too(serve: Serve, artifact: Path) -> None:
    """No body is over the limit on bytes."""
    relay = Relay(serve(max_body_bytes=4000))
    sequences = draw_sequences([20] * 20)
    with relay.connect() as client:
        found = client.encode(sequences)
    assert found.tobytes() == encode_alone(artifact, sequences).tobytes()
    assert max(len(request.content) for request in relay.encoded) <= 4000
    assert len(relay.encoded) > 1


def test_the_parts_in_flight_fit_the_queue(serve: Serve) -> None:
    """Four parts go at a time, so that each has at most a quarter of the steps that may wait."""
    relay = Relay(serve(max_queue_steps=40, max_request_steps=40, max_sequence_steps=40))
    with relay.connect() as client:
        client.encode(draw_sequences([5] * 10))
    assert len(relay.encoded) == 5
    assert relay.slept == []


def test_indices_are_the_callers_own(serve: Serve) -> None:
    """A fault in a later part is named by its place in the whole call."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))
    sequences = draw_sequences([10] * 9)
    sequences[7][4, 2] = np.nan
    with relay.connect() as client, pytest.raises(Refused) as caught:
        client.encode(sequences)
    problem = caught.value.problem
    assert (problem.status, problem.path) == (422, "sequences[7][4][2]")
    assert problem.detail.startswith("sequences[7][4][2] is not finite")
    assert str(caught.value) == f"422 A number is not finite: {problem.detail}"
    assert problem.type == "urn:lengthwise:problem:non-finite-value"
    with relay.connect() as client, pytest.raises(ValueError, match=r"^sequences\[7\] has the shape \(1, 2\)"):
        client.encode([*sequences[:7], [[1.0, 2.0]]])


def test_empty_sequences_count_as_a_step(serve: Serve) -> None:
    """Where they are answered by zeros, many of them are cut into requests within the limit, too."""
    relay = Relay(serve(empty_sequences="zero", max_request_steps=12, max_sequence_steps=12))
    with relay.connect() as client:
        found = client.encode([[], *SEQUENCES, *[np.empty((0, 3))] * 30])
        assert found[1:4].tobytes() == client.encode(SEQUENCES).tobytes()
    assert found.shape == (34, 16)
    assert not found[0].any()
    assert not found[4:].any()


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "one sequence": (SEQUENCES[0], ValueError, r"sequences\[0\] has the shape \(3,\)"),
    "another width": (
        [*SEQUENCES, [[1.0, 2.0]]],
        ValueError,
        r"sequences\[3\] has the shape \(1, 2\): .* \(steps, 3\)",
    ),
    "channels first": (
        [np.zeros((3, 5))],
        ValueError,
        r"sequences\[0\] has the shape \(3, 5\): .*: channels-first data must be transposed$",
    ),
    "ragged steps": ([[[1.0, 2.0, 3.0], [1.0]]], ValueError, r"sequences\[0\] is ragged within"),
    "words": ([[["a", "b", "c"]]], TypeError, r"sequences\[0\] is of <U1: the model reads numbers"),
    "booleans": ([[[True, False, True]]], TypeError, r"sequences\[0\] is of bool"),
    "a number": ([SEQUENCES[0], 5], TypeError, r"sequences\[1\] is of type int"),
    "one text": ("a text", TypeError, r"sequences is one text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_sequences_is_never_sent(kind: str, relay: Relay) -> None:
    """The caller is told which sequence is wrong, and what the model reads."""
    given, error, sentence = WRONG[kind]
    with relay.connect() as client, pytest.raises(error, match=sentence):
        client.encode(given)
    assert relay.encoded == []


def test_limits_are_asked_once_and_again_after_a_doubt(relay: Relay) -> None:
    """`/info` is asked by the first call, and by the one after a call that failed: the service may be another now."""
    with relay.connect() as client:
        for _ in range(3):
            client.encode(SEQUENCES)
        assert [request.url.path for request in relay.sent] == ["/info", "/encode", "/encode", "/encode"]
        relay.sent.clear()
        with pytest.raises(ValueError, match="shape"):
            client.encode([[1.0]])
        client.encode(SEQUENCES)
    assert [request.url.path for request in relay.sent] == ["/info", "/encode"]


def test_info_and_readiness_are_the_services_own(relay: Relay) -> None:
    """`info` is the document, and `is_ready` turns false while the service drains."""
    with relay.connect() as client:
        assert client.info()["models"][0]["name"] == "made"
        assert client.is_ready()
        relay.app.app.state.service.is_draining = True  # type: ignore[attr-defined]
        assert not client.is_ready()


def test_a_stream_is_read_as_its_embeddings_are_taken(serve: Serve, artifact: Path) -> None:
    """Of endless sequences, only so many are read ahead as five parts hold, and one more that begins the next."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))
    sequences = draw_sequences([5] * 8)
    taken: list[int] = []

    def draw() -> Iterator[npt.NDArray[np.float32]]:
        for n in count():
            taken.append(n)
            yield sequences[n % 8]

    with relay.connect() as client:
        stream = client.encode_stream(draw())
        found = [next(stream) for _ in range(8)]
        assert len(taken) <= 8 + 5 * 4 + 1
        stream.close()  # type: ignore[attr-defined]
    assert np.stack(found).tobytes() == encode_alone(artifact, sequences).tobytes()


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of texts that gives steps and states."""
    return take("texts-states", tmp_path_factory.mktemp("texts") / "texts.onnx", name="texts")


@pytest.fixture
def texts(recurrent: Path) -> Iterator[Relay]:
    """Its app, behind a relay, with so low a limit that calls are cut."""
    settings = Settings(model=recurrent, max_request_steps=12, max_sequence_steps=12)
    with TestClient(create_app(settings)) as app:
        yield Relay(app)


IDS = [[2, 3, 1], [3], [1, 1, 2, 3, 2], [2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, list])
def test_token_ids_are_encoded_bit_for_bit(dtype: Any, texts: Relay, recurrent: Path) -> None:
    """Ids in arrays of any integers, or lists, give the session's bits."""
    given = IDS if dtype is list else [np.array(ids, dtype=dtype) for ids in IDS]
    with texts.connect() as client:
        found = client.encode(given)
    expected = encode_alone(recurrent, [np.array(ids, dtype=np.int64) for ids in IDS])
    assert found.tobytes() == expected.tobytes()
    assert len(texts.encoded) == 2


def test_numbers_are_no_token_ids(texts: Relay) -> None:
    """1.5 is not taken for 1."""
    with texts.connect() as client, pytest.raises(TypeError, match=r"sequences\[1\] is of float64: .* token ids"):
        client.encode([[1], [1.5]])
    assert texts.encoded == []


def test_texts_are_encoded_as_their_tokens(texts: Relay) -> None:
    """Texts give the embeddings of their ids, also in parts, and a fault is counted over the whole call."""
    with texts.connect() as client:
        found = client.encode(["so it goes", "it", 'so "so" ü', "so", "it so it"])
        expected = client.encode([[2, 3, 1], [3], [2, 1, 2, 1, 1], [2], [3, 2, 3]])
        assert found.tobytes() == expected.tobytes()
        with pytest.raises(Refused) as caught:
            client.encode(["so it goes", "it", ""])
    assert caught.value.problem.path == "texts[2]"


def test_a_tokenizer_makes_the_ids_that_the_service_makes(texts: Relay) -> None:
    """Of the client's model, or of the one that is named; a name is sent whole, whatever is in it."""
    with texts.connect() as client:
        tokenizer = client.tokenizer()
        assert tokenizer
        ids = Tokenizer.from_str(tokenizer).encode("so it goes").ids
        np.testing.assert_array_equal(client.encode([np.array(ids)]), client.encode(["so it goes"]))
        assert client.tokenizer("texts") == client.tokenizer()
        with pytest.raises(Refused, match="a&b/c"):
            client.tokenizer("a&b/c")


def test_a_model_of_numbers_has_no_tokenizer(relay: Relay) -> None:
    """It reads no texts."""
    with relay.connect() as client:
        assert client.tokenizer() is None


def test_steps_and_states_come_back_whole(texts: Relay, recurrent: Path) -> None:
    """Every output has the bits that the session gives it, in the caller's order, though requests were cut."""
    session = open_session(recurrent)
    results = [session.run_all(pad_batch([np.array(ids, dtype=np.int64)])) for ids in IDS]
    with texts.connect() as client:
        found = client.encode_outputs(IDS, ["embedding", "steps", "state"])
        bare = client.encode_outputs(IDS, ["steps"])
    assert len(texts.encoded) == 4
    assert found.embeddings.tobytes() == np.concatenate([result.embeddings for result in results]).tobytes()
    assert bare.embeddings.shape == (0, 8)
    assert bare.state == {}
    for row, result in enumerate(results):
        assert result.steps is not None
        for steps in (found.steps[row], bare.steps[row]):
            assert steps.shape == (len(IDS[row]), 8)
            assert steps.tobytes() == result.steps.tobytes()
        for name in ("h", "c"):
            assert found.state[name][row].tobytes() == result.state[name].tobytes()
            assert found.state[name].shape == (4, 2, 2, 4)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_predictions_come_back_in_order(kind: str) -> None:
    """They are what the session's predictor says, a part at a time or all at once."""
    path = ARTIFACTS / f"{kind}.onnx"
    session = open_session(path)
    result = session.run_all(pad_batch(SEQUENCES))
    assert session.predictor is not None
    assert result.logits is not None
    expected = json.loads(json.dumps(list(session.predictor.describe(result.logits)), default=float))
    app = create_app(Settings(model=path, max_request_steps=8, max_sequence_steps=8))
    with TestClient(app) as service, Relay(service).connect() as client:
        found = client.encode_outputs(SEQUENCES, ["prediction"])
    assert found.embeddings.shape == (0, 8)
    for one, other in zip(found.prediction, expected, strict=True):
        if kind == "numbers":
            assert np.float32(one) == np.float32(other)
        else:
            assert one["label"] == other["label"]
            assert {name: np.float32(score) for name, score in one["scores"].items()} == {
                name: np.float32(score) for name, score in other["scores"].items()
            }


def test_asyncio_has_the_same_calls(texts: Relay) -> None:
    """Every method of the one client is one of the other, and gives the same."""
    with texts.connect() as client:
        embeddings, outputs = client.encode(IDS), client.encode_outputs(IDS, ["steps"])
        streamed, info = list(client.encode_stream(IDS)), client.info()["models"][0]
        tokenizer = client.tokenizer()

    async def call_all() -> None:
        async with texts.connect_async() as client:
            assert (await client.encode(IDS)).tobytes() == embeddings.tobytes()
            found = await client.encode_outputs(IDS, ["steps"])
            assert [steps.tobytes() for steps in found.steps] == [steps.tobytes() for steps in outputs.steps]
            rows = [row.tobytes() async for row in client.encode_stream(IDS)]
            assert rows == [row.tobytes() for row in streamed]
            assert (await client.info())["models"][0]["manifest"] == info["manifest"]
            assert await client.tokenizer() == tokenizer
            assert await client.is_ready()
            with pytest.raises(Refused):
                await client.encode([[9]])

    asyncio.run(call_all())
    assert {name for name in vars(Client) if name[0] != "_"} == {name for name in vars(AsyncClient) if name[0] != "_"}


def test_large_bodies_are_written_beside_the_event_loop(
    relay: Relay, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that takes long to write is written on a thread, and holds the same bits."""
    writers: list[bool] = []
    write = np.savez

    def savez(file: BytesIO, **members: npt.NDArray[Any]) -> None:
        writers.append(threading.current_thread() is threading.main_thread())
        write(file, **members)  # type: ignore[arg-type]

    monkeypatch.setattr("numpy.savez", savez)
    sequences = draw_sequences([6000, 3])

    async def call() -> npt.NDArray[np.float32]:
        async with relay.connect_async() as client:
            await client.encode(SEQUENCES)
            return await client.encode(sequences)

    assert asyncio.run(call()).tobytes() == encode_alone(artifact, sequences).tobytes()
    assert writers == [True, False]


def test_threads_share_a_client_and_its_connections(artifact: Path) -> None:
    """Over real sockets, each of many calls from 8 threads gets its own rows, and connections are used again."""
    calls = [draw_sequences([1 + n % 17, 5], seed=n) for n in range(64)]
    with start_service("--model", str(artifact), "--max-request-steps", "20", "--max-sequence-steps", "20") as (_, url):
        with Client(url) as client:
            with ThreadPoolExecutor(8) as threads:
                found = list(threads.map(client.encode, calls))
            for _ in range(10):
                whole = client.encode([steps for call in calls for steps in call])  # in parts, on threads of its own
            connections = client._http._transport._pool.connections  # type: ignore[attr-defined]
            assert len(connections) <= 8 + 4
        with Client(url) as client:
            for call in calls[:15]:
                client.encode(call)
            assert len(client._http._transport._pool.connections) == 1  # type: ignore[attr-defined]
    expected = [encode_alone(artifact, call) for call in calls]
    assert [rows.tobytes() for rows in found] == [rows.tobytes() for rows in expected]
    assert whole.tobytes() == np.concatenate(expected).tobytes()


def test_embeddings_of_arrays_go_as_npz(relay: Relay) -> None:
    """Arrays are copied, not written out, and options stand in the query."""
    with relay.connect() as client:
        client.encode([SEQUENCES[0].tolist(), SEQUENCES[1]], normalize=True, model="made")
    (request,) = relay.encoded
    assert request.url.query == b"normalize=true&model=made"
    assert (request.headers["content-type"], request.headers["accept"]) == ("application/x-npz", "application/x-npy")
    with np.load(BytesIO(request.content)) as file:
        members = dict(file)
    assert {name: array.dtype for name, array in members.items()} == {"values": np.float32, "lengths": np.int64}
    assert members["values"].tobytes() == np.concatenate(SEQUENCES[:2]).tobytes()
    assert members["lengths"].tolist() == [3, 1]


def test_texts_and_other_outputs_go_as_json(texts: Relay) -> None:
    """What npz and npy do not hold goes and comes as JSON, options beside it, base64 where shapes are known."""
    with texts.connect() as client:
        client.encode(["so it"], normalize=True, model="texts")
        client.encode_outputs([[2, 3]], ["state"])
    written, other = [json.loads(request.content) for request in texts.encoded]
    assert {request.headers["content-type"] for request in texts.encoded} == {"application/json"}
    options = {"outputs": ["embedding"], "normalize": True, "encoding_format": "base64", "model": "texts"}
    assert written == {"texts": ["so it"], **options}
    assert other == {"sequences": [[2, 3]], "outputs": ["state"], "normalize": False, "encoding_format": "float"}


def test_both_formats_give_the_same_bits() -> None:
    """Numbers that go as JSON, for the steps' sake, are the float32 that go as npz."""
    path = ARTIFACTS / "triples-steps.onnx"
    with TestClient(create_app(Settings(model=path))) as app, Relay(app).connect() as client:
        found = client.encode_outputs(SEQUENCES, ["embedding", "steps"])
        assert found.embeddings.tobytes() == client.encode(SEQUENCES).tobytes()
    session = open_session(path)
    for steps, sequence in zip(found.steps, SEQUENCES, strict=True):
        expected = session.run_all(pad_batch([sequence])).steps
        assert expected is not None
        assert steps.tobytes() == expected.tobytes()


LONGEST = [[-1.1754943508222875e-38] * 3] * 50


@pytest.mark.parametrize(
    ("features", "outputs", "sequence"),
    [
        (3, ("steps",), LONGEST),
        (3, ("embedding",), LONGEST),
        (None, ("steps",), [2**63 - 1] * 50),
        (None, ("embedding",), [2**63 - 1] * 50),
        (None, ("embedding",), '\x00"\\\x7fü\u2028😀' * 50),
    ],
)
def test_no_body_is_longer_than_it_was_thought(features: int | None, outputs: Any, sequence: Any) -> None:
    """By these bounds a call is cut; they hold for the numbers and characters that take the most room."""
    form = choose(features, Options(outputs), sequence)
    for number in (1, 100):
        written = form.write([sequence] * number, 0)
        assert len(written) <= form.frame_bytes + number * form.bound_bytes(sequence)
