"""Texts over HTTP: bounded before they are tokenised, then tokenised off the event loop while that is of use."""

import asyncio
import gzip
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model.data.texts import build_tokenizer
from service.app import create_app
from service.encoder import tokenizer as codec
from service.encoder.tokenizer import Ids, Texts, Tokenize, find_unknown
from service.settings import Settings
from tests.conftest import ARTIFACTS

Send = Callable[[TestClient, list[str]], tuple[int, Any]]

HEADERS = {"Content-Type": "application/json"}


class Watched:
    """A tokenizer that notes what it is given, and may be made to wait."""

    def __init__(self, tokenize: Tokenize) -> None:
        """Wait for nothing."""
        self._tokenize = tokenize
        self.groups: list[list[str]] = []
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Tokenise texts; long ones wait until they may."""
        self.groups.append(list(texts))
        if sum(map(len, texts)) > 2**11:
            self.began.set()
            assert self.may_go_on.wait(60)
        return self._tokenize(texts)


@pytest.fixture(scope="module")
def artifact() -> Path:
    """An encoder of texts, if `so` is the id 2, `it` 3, and any other word 1."""
    return ARTIFACTS / "texts.onnx"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watched]]:
    """The tokenizers of the encoders that are loaded from now on."""
    found: list[Watched] = []
    read = codec.read_tokenizer

    def read_watched(definition: str, file: str) -> Tokenize:
        found.append(Watched(read(definition, file)))
        return found[-1]

    monkeypatch.setattr(codec, "read_tokenizer", read_watched)
    yield found
    for one in found:
        one.may_go_on.set()


def send_native(client: TestClient, texts: list[str]) -> tuple[int, Any]:
    """Send texts to `/encode`; return the status, and the embeddings or the sentence."""
    answer = client.post("/encode", json={"texts": texts})
    return answer.status_code, answer.json().get("embeddings") or answer.json()["detail"]


def send_gzip(client: TestClient, texts: list[str]) -> tuple[int, Any]:
    """Send them compressed."""
    body = gzip.compress(json.dumps({"texts": texts}).encode())
    answer = client.post("/encode", content=body, headers={**HEADERS, "Content-Encoding": "gzip"})
    return answer.status_code, answer.json().get("embeddings") or answer.json()["detail"]


def send_openai(client: TestClient, texts: list[str]) -> tuple[int, Any]:
    """Send them as OpenAI's clients do, one alone as a string."""
    answer = client.post("/v1/embeddings", json={"model": "made", "input": texts if len(texts) > 1 else texts[0]})
    content = answer.json()
    return answer.status_code, [one["embedding"] for one in content.get("data", [])] or content["error"]["message"]


def send_kserve(client: TestClient, texts: list[str]) -> tuple[int, Any]:
    """Send them as an Open Inference Protocol tensor in JSON."""
    tensor = {"name": "texts", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return read_kserve(client.post("/v2/models/made/infer", json={"inputs": [tensor]}))


def send_raw(client: TestClient, texts: list[str]) -> tuple[int, Any]:
    """Send them as a tensor behind the JSON."""
    raw = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
    tensor = {"name": "texts", "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {**HEADERS, "Inference-Header-Content-Length": str(len(head))}
    return read_kserve(client.post("/v2/models/made/infer", content=head + raw, headers=headers))


def read_kserve(answer: Any) -> tuple[int, Any]:
    """Return the status, and the embeddings or the sentence."""
    content = answer.json()
    if "error" in content:
        return answer.status_code, content["error"]
    (output,) = content["outputs"]
    return answer.status_code, np.reshape(output["data"], output["shape"]).tolist()


WAYS: dict[str, Send] = {
    "native": send_native,
    "gzip": send_gzip,
    "openai": send_openai,
    "kserve": send_kserve,
    "kserve raw": send_raw,
}

LIMITS: dict[str, Any] = {
    "max_text_characters": 5000,
    "max_request_characters": 9000,
    "max_sequence_steps": 1000,
    "max_request_steps": 3000,
}


@pytest.fixture
def client(artifact: Path, watched: list[Watched]) -> Iterator[TestClient]:
    """A service with small limits, whose tokenizer is watched."""
    assert watched == []
    with TestClient(create_app(Settings(model=artifact, **LIMITS))) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["so", "a " * 2501], "[1] has 5002 characters: the limit is 5000, set by LENGTHWISE_MAX_TEXT_CHARACTERS."),
        (
            ["a" * 4000, "b" * 4000, "c" * 1001],
            "more than 9000 characters in all, the limit of LENGTHWISE_MAX_REQUEST_CHARACTERS: send them in parts.",
        ),
        (
            [""] * 3001,
            "more than 3000 steps in all, the limit of LENGTHWISE_MAX_REQUEST_STEPS: send them in parts.",
        ),
    ],
)
def test_texts_over_a_limit_are_refused_untokenised(
    way: str, texts: list[str], sentence: str, client: TestClient, watched: list[Watched]
) -> None:
    """Characters of a text and of all texts, and their number, are bounded before anything is tokenised."""
    status, found = WAYS[way](client, texts)
    assert status == 413
    assert sentence in found
    assert watched[0].groups == []


@pytest.mark.parametrize("way", WAYS)
def test_tokenising_stops_at_the_limit_on_steps(
    way: str, client: TestClient, watched: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts within the limits on characters may have too many tokens: nothing after the one that has is tokenised."""
    monkeypatch.setattr(codec, "GROUP_CHARACTERS", 10)
    status, found = WAYS[way](client, ["it", "a " * 1001, "so"])
    assert (status, "[1] has 1001 steps: the limit is 1000" in found) == (413, True)
    assert watched[0].groups == [["it"], ["a " * 1001]]
    watched[0].groups.clear()
    status, found = WAYS[way](client, ["a " * 900] * 5)
    assert (status, "more than 3000 steps in all" in found) == (413, True)
    assert len(watched[0].groups) == 4


@pytest.mark.parametrize("way", WAYS)
def test_each_text_is_answered_whichever_way_it_comes(way: str, client: TestClient) -> None:
    """A text gives the embedding of its ids alone, long or short, in whatever group it is tokenised."""
    texts = ["so it goes", "so " * 1000, "it " * 900, *["it"] * 50]
    ids = [[2, 3, 1], [2] * 1000, [3] * 900, *[[3]] * 50]
    expected = client.post("/encode", json={"sequences": ids}).json()["embeddings"]
    status, found = WAYS[way](client, texts)
    assert (status, found) == (200, expected)


def test_a_text_without_tokens_is_refused_by_its_place(client: TestClient) -> None:
    """Nothing but white space is an empty sequence, and no text an empty request."""
    assert send_native(client, ["it", " "]) == (
        422,
        "texts[1] has no steps, and no average: set LENGTHWISE_EMPTY_SEQUENCES=zero to answer the zero vector instead.",
    )
    assert send_native(client, []) == (422, "texts is empty: expected at least one sequence.")


def test_each_line_is_bounded_as_a_request(client: TestClient, watched: list[Watched]) -> None:
    """In a stream, a text over a limit has its own problem, untokenised if it has too many characters."""
    texts = ["it", "a " * 2501, "a " * 1001, " ", "so"]
    body = "".join(json.dumps(text) + "\n" for text in texts)
    answer = client.post("/encode", content=body, headers={"Content-Type": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line.get("problem", {}).get("type", "").rpartition(":")[2] for line in lines] == [
        "",
        "text-too-long",
        "sequence-too-long",
        "empty-sequence",
        "",
    ]
    assert [lines[0]["embedding"], lines[4]["embedding"]] == send_native(client, ["it", "so"])[1]
    assert texts[1] not in [text for group in watched[0].groups for text in group]


def make_tokenizers() -> list[Tokenize]:
    """Make one of words, and one of bytes that puts a token around each text."""
    bytes_ = Tokenizer(models.BPE({chr(code): code for code in range(400)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bytes_.post_processor = processors.TemplateProcessing(single="A $A B", special_tokens=[("A", 1), ("B", 2)])
    definitions = [build_tokenizer(["so", "it"]), bytes_.to_str()]
    return [codec.read_tokenizer(definition, "made.onnx") for definition in definitions]


TOKENIZERS = make_tokenizers()


@given(texts=st.lists(st.text(max_size=60), max_size=30), which=st.integers(0, 1), size=st.integers(1, 200))
def test_groups_give_the_ids_that_texts_have_alone_and_together(texts: list[str], which: int, size: int) -> None:
    """However texts are grouped, each has the same ids; no group but of one text has more characters than it may."""
    tokenize = TOKENIZERS[which]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "GROUP_CHARACTERS", size)
        groups = list(Texts(texts).groups())
    assert [text for group in groups for text in group] == texts
    assert all(len(group) == 1 or sum(map(len, group)) <= size for group in groups)
    grouped = [ids.tolist() for group in groups for ids in tokenize(group)]
    assert grouped == [ids.tolist() for ids in tokenize(texts)]
    assert grouped == [tokenize([text])[0].tolist() for text in texts]


LONG = "so " * 700  # over what is tokenised on the event loop


async def wait_for(event: threading.Event) -> None:
    """Wait for what another thread does."""
    assert await asyncio.to_thread(event.wait, 60)


def run_served(artifact: Path, check: Callable[[httpx.AsyncClient], Any], **settings: Any) -> None:
    """Serve on an event loop of its own, and check something there."""

    async def run() -> None:
        app = create_app(Settings(model=artifact, **settings))
        transport = httpx.ASGITransport(app)
        async with (
            app.fallback.router.lifespan_context(app.fallback),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            await check(http)

    asyncio.run(run())


def read_metric(text: str, name: str, **labels: str) -> float:
    """Return the value of one sample."""
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    (value,) = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return value


def test_a_deadline_ends_tokenising(artifact: Path, watched: list[Watched]) -> None:
    """Once its time is over a request is answered so, others having been answered meanwhile; no group more is begun."""

    async def check(http: httpx.AsyncClient) -> None:
        (tokenizer,) = watched
        tokenizer.may_go_on.clear()
        began = asyncio.create_task(wait_for(tokenizer.began))
        for milliseconds in (300, 3000, 30_000):  # a busy machine may not begin it sooner
            headers = {"X-Request-Timeout-Ms": str(milliseconds)}
            late = asyncio.create_task(http.post("/encode", json={"texts": [LONG] * 40}, headers=headers))
            await asyncio.wait({late, began}, return_when=asyncio.FIRST_COMPLETED)
            if began.done():
                break
        await began
        assert (await http.post("/encode", json={"texts": ["so it"]})).status_code == 200
        assert (await late).status_code == 504
        assert (await late).json()["type"] == "urn:lengthwise:problem:deadline-passed"
        tokenizer.may_go_on.set()
        assert (await http.post("/encode", json={"texts": [LONG + "it"]})).status_code == 200
        begun = [group[0] for group in tokenizer.groups]
        assert begun == [LONG, "so it", LONG + "it"]

    run_served(artifact, check)


def test_a_client_that_hangs_up_ends_tokenising(artifact: Path, watched: list[Watched]) -> None:
    """The server cancels a request whose client is gone: no group more is begun, and it is counted."""

    async def check(http: httpx.AsyncClient) -> None:
        (tokenizer,) = watched
        tokenizer.may_go_on.clear()
        gone = asyncio.create_task(http.post("/encode", json={"texts": [LONG] * 40}))
        await wait_for(tokenizer.began)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        tokenizer.may_go_on.set()
        assert (await http.post("/encode", json={"texts": [LONG + "it"]})).status_code == 200
        assert [group[0] for group in tokenizer.groups] == [LONG, LONG + "it"]
        metrics = (await http.get("/metrics")).text
        assert read_metric(metrics, "lengthwise_cancelled_total", model="made", where="queue") == 1
        assert read_metric(metrics, "lengthwise_cancelled_total", model="made", where="body") == 0

    run_served(artifact, check)


def test_the_end_of_the_drain_ends_tokenising(artifact: Path, watched: list[Watched]) -> None:
    """A request whose texts are not all tokenised when the time to drain is up gets 503, and no group more is begun."""

    async def run() -> None:
        app = create_app(Settings(model=artifact))
        transport = httpx.ASGITransport(app)
        async with (
            app.fallback.router.lifespan_context(app.fallback),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            (tokenizer,) = watched
            tokenizer.may_go_on.clear()
            late = asyncio.create_task(http.post("/encode", json={"texts": [LONG] * 40}))
            await wait_for(tokenizer.began)
            app.state.service.is_draining = True
            late.cancel()  # as uvicorn does when the time is up
            response = await late
            tokenizer.may_go_on.set()
            assert (response.status_code, response.json()["type"]) == (503, "urn:lengthwise:problem:draining")
            await asyncio.to_thread(app.state.service.tokenizer.submit(int).result)  # whatever was before it is over
            assert tokenizer.groups == [[LONG] * len(tokenizer.groups[0])]

    asyncio.run(run())


def test_kserves_timeout_holds_for_tokenising(artifact: Path, watched: list[Watched]) -> None:
    """What the body of a request allows is heeded before its texts are tokenised."""

    async def check(http: httpx.AsyncClient) -> None:
        watched[0].may_go_on.clear()
        tensor = {"name": "texts", "shape": [1], "datatype": "BYTES", "data": [LONG]}
        answer = await http.post("/v2/models/made/infer", json={"inputs": [tensor], "parameters": {"timeout": 50_000}})
        assert (answer.status_code, answer.json()["error"][:28]) == (504, "The time the request allows ")

    run_served(artifact, check)


def test_unknown_tokens_are_counted_and_logged_once(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """A share of unknown tokens over a tenth, of a thousand and more, is a warning, once for the model."""
    caplog.set_level(logging.WARNING, "lengthwise")
    send_native(client, ["so it " * 450, "what " * 99])
    assert caplog.messages == []
    for _ in range(2):
        send_native(client, ["what " * 20])
    (warning,) = caplog.messages
    assert warning.startswith("The tokenizer of made does not know 12 % of the first 1019 tokens of texts:")
    metrics = client.get("/metrics").text
    assert read_metric(metrics, "lengthwise_text_tokens_total", model="made", kind="unknown") == 139
    assert read_metric(metrics, "lengthwise_text_tokens_total", model="made", kind="known") == 900


def test_the_unknown_token_is_found_in_any_kind_of_tokenizer() -> None:
    """Word lists name it, Unigram numbers it, and one of bytes has none."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "x": 1, "?": 7}, unk_token="?"))  # noqa: S106 - no password
    pieces = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=1))
    of_bytes = Tokenizer(models.BPE({"a": 0}, []))
    assert [find_unknown(one.to_str()) for one in (words, pieces, of_bytes)] == [7, 1, None]
