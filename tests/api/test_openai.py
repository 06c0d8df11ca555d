"""OpenAI's embeddings, judged by OpenAI's own client over a real socket, and each way they are refused."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.api.front import Front
from service.app import create_app
from service.batching.jobs import Job
from service.codecs.json import openai as codec
from service.codecs.json.plain import Bounds, parse_plain
from service.encoder.sequences import Features, InputSpec, Tokens
from service.errors import RequestTooLong
from service.settings import Limits, Settings
from tests.api.test_encode import PAIR, Serve, embed
from tests.conftest import ARTIFACTS
from tests.listening import listen

Input = Any  # the client's type knows no sequences of floats


class Counted:
    """An app that counts what it is sent."""

    def __init__(self, settings: Settings) -> None:
        self.app: Front = create_app(settings)
        self.requests: list[str] = []

    @property
    def service(self) -> Any:
        """The service behind the app."""
        return self.app.state.service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request and pass it on."""
        if scope["type"] == "http":
            self.requests.append(scope["path"])
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def app(artifact: Path) -> Counted:
    """The made encoder, with a queue that one request can fill."""
    return Counted(Settings(model=artifact, max_queue_steps=20, max_request_steps=20, max_sequence_steps=10))


@pytest.fixture(scope="module")
def url(app: Counted) -> Iterator[str]:
    """Where it listens, as OpenAI's clients want it."""
    with listen(app) as address:
        yield f"http://{address}/v1"


@pytest.fixture
def official(url: str) -> Iterator[OpenAI]:
    """The official client, with nothing set beyond its base URL and a key, which it must have."""
    with OpenAI(base_url=url, api_key="any") as client:
        yield client


def test_the_official_client_gets_embeddings(official: OpenAI, client: TestClient) -> None:
    """Sequences of numbers give the embeddings of `/encode`, and usage counts their valid steps."""
    answer = official.embeddings.create(model="made", input=PAIR)
    assert [row.index for row in answer.data] == [0, 1]
    assert [row.embedding for row in answer.data] == np.array(embed(client, PAIR), dtype=np.float32).tolist()
    assert (answer.model, answer.object, answer.data[0].object) == ("made", "list", "embedding")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)
    plain = official.embeddings.create(model="made", input=PAIR, encoding_format="float")
    assert np.array(plain.data[0].embedding, np.float32).tolist() == answer.data[0].embedding
    alone = official.embeddings.create(model="made", input=PAIR[0], dimensions=16)
    assert [row.embedding for row in alone.data] == [answer.data[0].embedding]


def test_the_official_async_client_gets_embeddings_too(url: str, official: OpenAI) -> None:
    """Eight requests at once give what one gives."""

    async def ask() -> list[openai.types.CreateEmbeddingResponse]:
        async with AsyncOpenAI(base_url=url, api_key="any") as client:
            asked = [client.embeddings.create(model="made", input=PAIR[:1]) for _ in range(8)]
            return list(await asyncio.gather(*asked))

    expected = official.embeddings.create(model="made", input=PAIR[:1]).data
    assert [answer.data for answer in asyncio.run(ask())] == [expected] * 8


def test_the_official_client_finds_the_model(official: OpenAI) -> None:
    """It is listed and retrieved under its name, with the time of its export; another name is not found."""
    (listed,) = official.models.list().data
    assert (listed.id, listed.object, listed.owned_by) == ("made", "model", "lengthwise")
    assert listed.created > 1_700_000_000
    assert official.models.retrieve("made") == listed
    with pytest.raises(openai.NotFoundError) as caught:
        official.models.retrieve("other")
    assert (caught.value.code, caught.value.param) == ("unknown_model", "model")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_official_client_retries_a_full_queue(
    way: str, app: Counted, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits as long as `retry-after-ms` says, and is answered once there is room."""
    queues, queue, waits = app.service.engine.queues, app.service.models.find(None).queue, Job([19])
    costs, waited = app.service.models.find(None).calibrator.costs, list[float]()
    costs.factors = {False: 1.0, True: 1.0}
    for shape in [*costs.measured]:
        costs.learn(shape, 1e-4)

    def make_room(seconds: float) -> None:
        waited.append(seconds)
        queues.withdraw(queue, waits)

    async def make_room_async(seconds: float) -> None:
        make_room(seconds)

    queues.submit(queue, waits, time.perf_counter())
    app.requests.clear()
    if way == "sync":
        monkeypatch.setattr("openai._base_client.time.sleep", make_room)
        with OpenAI(base_url=url, api_key="any") as client:
            answer = client.embeddings.create(model="made", input=PAIR)
    else:
        monkeypatch.setattr("openai._base_client.anyio.sleep", make_room_async)

        async def ask() -> openai.types.CreateEmbeddingResponse:
            async with AsyncOpenAI(base_url=url, api_key="any") as client:
                return await client.embeddings.create(model="made", input=PAIR)

        answer = asyncio.run(ask())
    assert len(answer.data) == 2
    assert waited == [0.001]  # nothing is predicted to be in the way
    assert app.requests == ["/v1/embeddings"] * 2


@pytest.mark.parametrize(
    ("asked", "kind", "code", "param"),
    [
        ({"input": [PAIR[1] * 11]}, openai.APIStatusError, "sequence_too_long", "input[0]"),
        ({"input": [PAIR[1] * 9] * 3}, openai.APIStatusError, "request_too_long", "input"),
        ({"input": "a text"}, openai.BadRequestError, "not_offered", "input"),
        ({"input": ["a text"]}, openai.BadRequestError, "not_offered", "input"),
        ({"input": [1, 2]}, openai.BadRequestError, "invalid_field", "input[0]"),
        ({"input": []}, openai.BadRequestError, "empty_request", "input"),
        ({"input": [[]]}, openai.BadRequestError, "empty_sequence", "input[0]"),
        ({"input": [[[1.0, 2.0]]]}, openai.BadRequestError, "feature_mismatch", "input[0][0]"),
        ({"input": [[[1.0, 2.0, 1e39]]]}, openai.BadRequestError, "non_finite_value", "input[0][0][2]"),
        ({"input": PAIR, "dimensions": 8}, openai.BadRequestError, "not_offered", "dimensions"),
        ({"input": PAIR, "model": "other"}, openai.NotFoundError, "unknown_model", "model"),
    ],
)
def test_the_official_client_never_retries_what_cannot_succeed(
    asked: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str, app: Counted, official: OpenAI
) -> None:
    """It is sent once, and its exception names the fault and its place."""
    app.requests.clear()
    with pytest.raises(kind) as caught:
        official.embeddings.create(**{"model": "made", **asked})
    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert error.response.headers.get("x-should-retry") == ("false" if error.status_code == 413 else None)
    assert app.requests == ["/v1/embeddings"]


def test_the_official_client_may_send_what_only_others_know(official: OpenAI) -> None:
    """Members beside OpenAI's own, and what else its client adds, change nothing."""
    plain = official.embeddings.create(model="made", input=PAIR)
    other = {"truncate": True, "input_type": "query", "lists": [[[]], [1]], "metadata": {"a": [{}]}}
    more = official.embeddings.create(model="made", input=PAIR, extra_body=other, user="me")
    assert more.data == plain.data


def test_a_failing_model_is_a_server_error_that_is_not_retried(
    app: Counted, official: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed once fails again: the client is told so, and the sequence is named."""

    def explode(_batch: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(app.service.models.find(None).session, "run", explode)
    app.requests.clear()
    with pytest.raises(openai.InternalServerError) as caught:
        official.embeddings.create(model="made", input=PAIR[:1])
    assert (caught.value.code, caught.value.param, caught.value.type) == ("run_failed", "input[0]", "server_error")
    assert app.requests == ["/v1/embeddings"]


def post(client: TestClient, body: bytes | dict[str, Any], **headers: str) -> tuple[int, Any]:
    """Post a body; return the status and the error's object."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json", **headers})
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    if response.status_code != 200:
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    return response.status_code, answer.get("error", answer)


def test_token_ids_come_alone_or_in_lists() -> None:
    """A list of ids is one sequence, a list of lists several; zeros behind them are padding."""
    with TestClient(create_app(Settings(model=ARTIFACTS / "tokens.onnx"))) as client:
        expected = embed(client, [[3, 8, 1], [5]])  # type: ignore[list-item]
        for given, rows in (([3, 8, 1], expected[:1]), ([[3, 8, 1], [5, 0]], expected), ([3, 8, 1, 0], expected[:1])):
            status, answer = post(client, {"model": "made", "input": given})
            assert status == 200
            assert [row["embedding"] for row in answer["data"]] == rows
            assert answer["usage"]["total_tokens"] == 3 + (len(rows) == 2)
        for unknown in ([3, 9], [[3, 9], [5, 0]]):
            status, error = post(client, {"model": "made", "input": unknown})
            assert (status, error["code"], error["param"]) == (400, "unknown_token", "input[0][1]")
        status, error = post(client, {"model": "made", "input": [3, 1.5]})
        assert (status, error["param"]) == (400, "input[0][1]")


def test_texts_come_alone_or_in_lists() -> None:
    """The official client gets the embeddings of a text's tokens."""
    with (
        listen(create_app(Settings(model=ARTIFACTS / "texts.onnx"))) as address,
        OpenAI(base_url=f"http://{address}/v1", api_key="any") as client,
    ):
        ids = client.embeddings.create(model="made", input=[[2, 3, 1], [3]])
        texts = client.embeddings.create(model="made", input=["so it goes", "it"])
        alone = client.embeddings.create(model="made", input="so it goes")
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="made", input=["so", 3])  # type: ignore[arg-type]
    assert texts.data == ids.data
    assert alone.data == ids.data[:1]
    assert texts.usage.total_tokens == 4
    assert caught.value.param == "input[1]"


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        (b"{", None, "not valid JSON"),
        (b"[]", "The body", "a list of 0"),
        (b'{"model": "made"}', "input", "input is missing"),
        (b'{"input": [[[1, 2, 3]]]}', "model", "model is missing: expected a value"),
        (b'{"model": 5, "input": [[[1, 2, 3]]]}', "model", "model is a number: expected a valid string"),
        (b'{"model": "made", "input": 5}', "input", "a list of sequences"),
        (b'{"model": "made", "input": [[[1, 2, [3]]]]}', "input[0][0][2]", "expected a number"),
        (b'{"model": "made", "input": [[[1, 2, 3]]], "input": []}', "'input'", "given twice"),
        (b'{"model": "made", "model": "made", "input": [[[1, 2, 3]]]}', "model", "given twice"),
        (b'{"model": "made", "input": ' + b"[" * 100 + b"]" * 100 + b"}", "input[0][0][0]", "a list of 1"),
        (b'{"model": "made", "input": ' + b"[" * 5000 + b"]" * 5000 + b"}", None, "nested too deeply"),
    ],
)
def test_bad_bodies_are_named(body: bytes, param: str | None, sentence: str, client: TestClient) -> None:
    """400, with the place and a sentence."""
    status, error = post(client, body)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert sentence in error["message"]


@pytest.mark.parametrize(
    ("features", "given", "lengths"),
    [
        (3, PAIR, [3, 1]),
        (3, PAIR[0], [3]),
        (3, [[], *PAIR], [0, 3, 1]),
        (3, [[1, 2, 3], [1, 2, [3]]], None),
        (3, [PAIR[0][0], PAIR[1]], None),
        (None, [3, 8, 1], [3]),
        (None, [[3, 8], [1]], [2, 1]),
        (None, [3, [8], 1], None),
        (None, [[3], 8], None),
    ],
)
def test_input_of_any_depth_is_read_fast(features: int | None, given: Any, lengths: list[int] | None) -> None:
    """One sequence or several, plain input is left to the exact reader only if it is wrong."""
    body = json.dumps({"model": "made", "input": given}).encode()
    parsed = parse_plain(body, "input", may_be_alone=True)
    found = parsed and parsed[1](Tokens() if features is None else Features(features))
    assert (found and found.lengths.tolist()) == lengths


def test_more_texts_than_steps_are_refused_untokenized() -> None:
    """Even an empty text costs a step, so that so many need not be read."""

    def tokenize(_texts: object) -> list[npt.NDArray[np.int64]]:
        pytest.fail("the texts were tokenized")

    body = json.dumps({"model": "made", "input": [""] * 13}).encode()
    with pytest.raises(RequestTooLong):
        codec.parse(body, Limits(12, 12, empty_allowed=False), Bounds()).read(InputSpec(Tokens(), tokenize))


def test_more_steps_than_a_request_may_have_are_refused_unparsed(serve: Serve) -> None:
    """Brackets are counted first, so that a body of empty sequences costs no more than to read it."""
    client = serve(max_request_steps=12, max_sequence_steps=12)
    status, error = post(client, b'{"model": "made", "input": [' + b"[]," * 130 + b"junk")
    assert (status, error["code"], error["param"]) == (413, "request_too_long", "input")


def test_token_ids_of_another_tokenizer_are_told_what_to_set() -> None:
    """LangChain's default sends ids of OpenAI's tokenizer: the sentence names the flag by which it sends the texts."""
    with TestClient(create_app(Settings(model=ARTIFACTS / "texts.onnx"))) as client:
        of_tiktoken = {"model": "made", "input": [[708, 433, 5900]], "encoding_format": "base64"}
        status, error = post(client, json.dumps(of_tiktoken).encode())
        assert (status, error["code"], error["param"]) == (400, "unknown_token", "input[0][0]")
        assert error["message"] == (
            "input[0][0] is the token id 708: the model knows 1 to 3. If texts were sent, the client made these ids by "
            "a tokenizer that is not the model's: have it send the texts (LangChain: check_embedding_ctx_length=False)."
        )
        native = client.post("/encode", json={"sequences": [[708]]}).json()
        assert native["detail"] == "sequences[0][0] is the token id 708: the model knows 1 to 3."
