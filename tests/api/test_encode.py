"""`POST /encode`, in process: what it answers, and each way it refuses."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.api.encoding import respond
from service.api.endpoints import native
from service.api.problems import MEDIA_TYPE
from service.app import create_app
from service.batching.jobs import Job
from service.codecs import large
from service.codecs.json import ragged
from service.codecs.options import AnswerOptions
from service.codecs.question import Written
from service.encoder.sequences import Answer
from service.settings import Settings
from tests import oracle
from tests.conftest import draw_sequences

Serve = Callable[..., TestClient]
PAIR = [steps.tolist() for steps in draw_sequences([3, 1])]


def test_two_sequences_give_two_embeddings(client: TestClient, artifact: Path) -> None:
    """The answer holds one embedding a sequence, as the numpy oracle computes them, and what they cost."""
    response = client.post("/encode", json={"sequences": PAIR})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["dim"], answer["lengths"], answer["model"]) == (16, [3, 1], "made")
    assert answer["usage"]["sequences"] == 2
    assert answer["usage"]["steps"] == 4
    assert answer["usage"]["padded_steps"] in (4, 6)  # two runners may take one each
    weights = oracle.read_weights(artifact)
    expected = [oracle.encode(weights, np.array(steps, dtype=np.float32)) for steps in PAIR]
    np.testing.assert_allclose(answer["embeddings"], expected, rtol=0, atol=5e-6)  # float32 against float64


def test_answers_carry_id_hash_and_stage_times(client: TestClient) -> None:
    """A request's own id comes back, the artifact's hash is named, and the stages are timed."""
    response = client.post("/encode", json={"sequences": PAIR}, headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-model-sha"] == client.get("/info").json()["models"][0]["sha256"]
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == ["decode", "queue", "run", "encode"]
    assert all(float(milliseconds) >= 0 for _, milliseconds in stages)
    assert client.get("/info", headers={"X-Request-Id": "no\tid"}).headers["x-request-id"] != "no\tid"


def embed(client: TestClient, sequences: list[list[list[float]]], **options: object) -> list[list[float]]:
    """Post sequences and return their embeddings."""
    response = client.post("/encode", json={"sequences": sequences, **options})
    assert response.status_code == 200, response.text
    embeddings: list[list[float]] = response.json()["embeddings"]
    return embeddings


@hypothesis_settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=9), padding=st.integers(0, 5), order=st.randoms())
def test_neighbours_order_and_padding_change_nothing(
    artifact: Path, lengths: list[int], padding: int, order: object
) -> None:
    """Over HTTP an embedding is the same to the last bit alone, in company, reordered, and padded with junk."""
    sequences = [steps.tolist() for steps in draw_sequences(lengths)]
    with TestClient(create_app(Settings(model=artifact, max_batch_sequences=4))) as client:
        alone = [embed(client, [steps])[0] for steps in sequences]
        assert embed(client, sequences) == alone
        rows = list(range(len(lengths)))
        order.shuffle(rows)  # type: ignore[attr-defined]
        assert embed(client, [sequences[row] for row in rows]) == [alone[row] for row in rows]
        time = max(lengths) + padding
        padded = [steps + [[9.0, -9.0, 1e30]] * (time - len(steps)) for steps in sequences]
        assert embed(client, padded, lengths=lengths) == alone


def test_base64_and_normalize_hold_the_same_numbers(client: TestClient) -> None:
    """Base64 gives the bytes of the float32 embeddings, and normalising scales each to norm 1."""
    plain = np.array(embed(client, PAIR), dtype=np.float32)
    coded = embed(client, PAIR, encoding_format="base64")
    assert b"".join(base64.b64decode(row) for row in coded) == plain.tobytes()  # type: ignore[arg-type]
    scaled = np.array(embed(client, PAIR, normalize=True))
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)  # float32 rounding of the quotient


def test_a_large_request_is_answered_in_order(serve: Serve) -> None:
    """Far more sequences than a batch holds come back row for row."""
    client = serve(max_batch_sequences=3)
    sequences = [steps.tolist() for steps in draw_sequences([1 + n % 13 for n in range(100)])]
    assert embed(client, sequences) == [embed(client, [steps])[0] for steps in sequences]


def test_a_large_answer_is_the_same_in_parts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is told, though it is sent a part at a time; between parts the loop serves others."""
    client = serve()
    whole = client.post("/encode", json={"sequences": PAIR})
    monkeypatch.setattr(large, "LARGE_ANSWER_NUMBERS", 0)
    monkeypatch.setattr(large, "PIECE_BYTES", 100)
    parted = client.post("/encode", json={"sequences": PAIR})
    assert parted.json()["embeddings"] == whole.json()["embeddings"]
    assert int(parted.headers["content-length"]) == len(parted.content)
    sent, turns = [], []

    async def send(message: Any) -> None:
        sent.append(len(message.get("body", b"")))
        asyncio.get_running_loop().call_soon(lambda: turns.append(len(sent)))

    asyncio.run(respond(b"." * 250, [], is_large=True)({}, None, send))  # type: ignore[arg-type]
    assert sent == [0, 100, 100, 50, 0]
    assert turns[:4] == [2, 2, 3, 4]  # messages sent by then; the first goes with the first part


def test_empty_sequences_are_zero_vectors_where_the_setting_says_so(serve: Serve) -> None:
    """With `empty_sequences=zero` a sequence without steps gets zeros, alone or in company."""
    client = serve(empty_sequences="zero")
    assert embed(client, [[]]) == [[0.0] * 16]
    assert embed(client, [[], PAIR[0]])[0] == [0.0] * 16
    assert embed(client, [PAIR[0], PAIR[0]], lengths=[0, 3]) == [[0.0] * 16, embed(client, PAIR[:1])[0]]


REFUSALS = {
    "malformed-json": (b'{"sequences": [[[1, 2, 3]', 422, None),
    "invalid-field": (b'{"sequences": 5}', 422, "sequences"),
    "not-a-number": (b'{"sequences": [[[1, 2, 3]], [[1, "x", 3]]]}', 422, "sequences[1][0][1]"),
    "non-finite-value": (b'{"sequences": [[[1, 2, 3], [1, 2, NaN]]]}', 422, "sequences[0][1][2]"),
    "feature-mismatch": (b'{"sequences": [[[1, 2, 3], [1, 2]]]}', 422, "sequences[0][1]"),
    "empty-request": (b'{"sequences": []}', 422, "sequences"),
    "empty-sequence": (b'{"sequences": [[[1, 2, 3]], []]}', 422, "sequences[1]"),
    "invalid-lengths": (b'{"sequences": [[[1, 2, 3]]], "lengths": [2]}', 422, "lengths[0]"),
    "unknown-model": (b'{"sequences": [[[1, 2, 3]]], "model": "other"}', 404, "model"),
    "sequence-too-long": (json.dumps({"sequences": [[[1, 2, 3]] * 6]}).encode(), 413, "sequences[0]"),
    "request-too-long": (json.dumps({"sequences": [[[1, 2, 3]] * 5] * 3}).encode(), 413, "sequences"),
    "body-too-large": (b" " * 2001, 413, None),
}


@pytest.mark.parametrize("slug", REFUSALS)
def test_each_refusal_names_its_kind_and_place(slug: str, serve: Serve) -> None:
    """The problem's type, status and path are those of the fault, and the request id is in body and header."""
    body, status, path = REFUSALS[slug]
    client = serve(max_body_bytes=2000, max_sequence_steps=5, max_request_steps=12)
    response = client.post("/encode", content=body, headers={"Content-Type": "application/json"})
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status)
    assert response.headers["content-type"] == MEDIA_TYPE
    assert problem["type"] == f"urn:lengthwise:problem:{slug}"
    assert problem.get("path") == path
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers.get("x-should-retry") == ("false" if status == 413 else None)
    if status == 413:
        assert str(problem["limit"]) in problem["detail"]
        assert problem["setting"] in problem["detail"]


def test_a_body_that_hides_its_length_is_cut_off(serve: Serve) -> None:
    """A chunked body over the limit is refused as it is read."""
    client = serve(max_body_bytes=2000)
    response = client.post("/encode", content=iter([b" " * 1500, b" " * 1500]))
    assert response.status_code == 413


def test_other_media_types_are_refused(client: TestClient) -> None:
    """A form or text is 415, JSON with a charset is not, and what does not say is taken for JSON."""
    body = json.dumps({"sequences": PAIR}).encode()
    refused = client.post("/encode", content=body, headers={"Content-Type": "text/plain"})
    assert refused.status_code == 415
    assert refused.json()["detail"] == (
        "The body is text/plain: expected application/json, application/x-npz, application/x-npy, "
        "application/vnd.apache.arrow.stream, application/x-ndjson."
    )
    for headers in ({"Content-Type": "Application/JSON; charset=utf-8"}, {}):
        assert client.post("/encode", content=body, headers=headers).status_code == 200


def test_a_draining_service_refuses_and_closes(client: TestClient) -> None:
    """Once draining, new requests get 503 with a time to retry, readiness ends, and connections close."""
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    for response in (client.post("/encode", json={"sequences": PAIR}), client.get("/health/ready")):
        assert response.status_code == 503
        assert response.json()["type"] == "urn:lengthwise:problem:draining"
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "1000")
        assert response.headers["connection"] == "close"
    assert client.get("/health/live").status_code == 200


def test_a_full_queue_answers_503(serve: Serve) -> None:
    """What does not fit the queue is refused with a computed time to retry."""
    client = serve(max_queue_steps=12, max_request_steps=12, max_sequence_steps=12)
    service = client.app.state.service  # type: ignore[attr-defined]
    queues, queue = service.engine.queues, service.models.find(None).queue
    queues.submit(queue, Job([11]), time.perf_counter())
    response = client.post("/encode", json={"sequences": PAIR})
    assert response.status_code == 503
    assert response.json()["type"] == "urn:lengthwise:problem:queue-full"
    assert int(response.headers["retry-after"]) >= 1
    assert client.post("/encode", content=b"no JSON").status_code == 422
    queues.submit(queue, Job([1]), time.perf_counter())
    assert client.post("/encode", content=b"no JSON").status_code == 503  # it is not read any more


@pytest.mark.parametrize("status", [503, 429])
def test_a_queue_of_too_many_seconds_is_refused_as_the_setting_says(status: int, serve: Serve) -> None:
    """503, or 429 if a setting says so, with the wait in seconds and in milliseconds; `/openapi.json` has both."""
    client = serve(max_queue_seconds=2, overload_status=status)
    service = client.app.state.service  # type: ignore[attr-defined]
    queues, model = service.engine.queues, service.models.find(None)
    for rows, steps in model.calibrator.costs.measured:
        model.calibrator.costs.learn((rows, steps), 0.04 * rows)
    while (waits := queues.forecast(model.queue, 0.0).seconds) <= 2:
        queues.submit(model.queue, Job([1]), 0.0)
    response = client.post("/encode", json={"sequences": PAIR})
    assert response.status_code == response.json()["status"] == status
    assert (response.json()["limit"], response.json()["setting"]) == (2, "LENGTHWISE_MAX_QUEUE_SECONDS")
    assert response.headers["retry-after"] == "3"
    assert response.headers["retry-after-ms"] == str(ceil(1000 * waits))
    documented = client.get("/openapi.json").json()["paths"]["/encode"]["post"]["responses"][str(status)]
    assert "queue-full" in documented["content"][MEDIA_TYPE]["examples"]


def test_a_deadline_that_cannot_be_met_is_a_504(serve: Serve) -> None:
    """It is refused at once if the answer would be late, by the request's own time or by the setting's."""
    client = serve(request_timeout_ms=1)
    client.app.state.service.models.find(None).calibrator.costs.learn((1, 1), 1.0)  # type: ignore[attr-defined]
    client.app.state.service.models.find(None).calibrator.costs.learn((32, 8192), 2.0)  # type: ignore[attr-defined]
    sequences = [steps.tolist() for steps in draw_sequences([8000])]
    for headers in ({}, {"X-Request-Timeout-Ms": "2"}):
        response = client.post("/encode", json={"sequences": sequences}, headers=headers)
        assert response.status_code == 504
        assert response.json()["type"] == "urn:lengthwise:problem:deadline-unreachable"
    headers = {"X-Request-Timeout-Ms": "600000"}
    assert client.post("/encode", json={"sequences": sequences}, headers=headers).status_code == 200


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "", "9999999999"])
def test_a_timeout_is_a_whole_number_of_milliseconds(text: str, client: TestClient) -> None:
    """Anything else is 422, naming the header."""
    response = client.post("/encode", json={"sequences": PAIR}, headers={"X-Request-Timeout-Ms": text})
    assert response.status_code == 422
    assert response.json()["path"] == "X-Request-Timeout-Ms"


def test_a_failing_model_names_the_culprit_and_hides_its_insides(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 names the sequence and the kind of failure, never its message."""
    session = client.app.state.service.models.find(None).session  # type: ignore[attr-defined]

    def explode(_batch: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(type(session), "run", lambda _self, batch: explode(batch))
    response = client.post("/encode", json={"sequences": PAIR})
    assert response.status_code == 500
    assert response.json()["type"] == "urn:lengthwise:problem:run-failed"
    assert "secret" not in response.text
    assert "RuntimeError" in response.text


def test_an_unforeseen_error_is_a_500_with_its_id_and_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is logged under the request id, and answered without a word of it."""
    monkeypatch.setattr("service.codecs.json.ragged.parse_plain", lambda *_: 1 / 0)
    response = client.post("/encode", json={"sequences": PAIR}, headers={"X-Request-Id": "abc"})
    assert response.status_code == 500
    assert response.json()["request_id"] == response.headers["x-request-id"] == "abc"
    assert "ZeroDivision" not in response.text


def test_a_client_that_hangs_up_while_sending_is_no_error(client: TestClient) -> None:
    """The request ends quietly: no exception reaches the server, and so none its log."""
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> Any:
        return next(messages)

    async def send(_message: object) -> None:
        pass

    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]


def test_an_app_may_start_again(serve: Serve) -> None:
    """A second lifespan has runners of its own."""
    client = serve()
    client.__exit__(None, None, None)
    with client:
        assert embed(client, PAIR)


def test_large_bodies_are_decoded_alike(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body over the size that is decoded on a thread, or in pieces there, gives what smaller ones give."""
    sequences = [steps.tolist() for steps in draw_sequences([500] * 50)]
    assert len(json.dumps({"sequences": sequences})) > large.LARGE_BODY_BYTES
    whole = embed(client, sequences)
    assert whole[7] == embed(client, sequences[7:8])[0]
    monkeypatch.setattr(large, "PIECED_BODY_BYTES", 0)
    assert embed(client, sequences) == whole


def test_large_answers_are_written_elsewhere(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large is the same, and is not written on the thread of the event loop, which answers others meanwhile."""
    threads = []
    form = ragged.FORMAT

    def write_here(answer: Answer, options: AnswerOptions) -> Written:
        threads.append(threading.current_thread().name)
        return ragged.write(answer, options)

    monkeypatch.setitem(native.WRITERS, ragged.MEDIA_TYPE, replace(form, write=write_here))
    small = embed(client, PAIR)
    monkeypatch.setattr(large, "LARGE_ANSWER_NUMBERS", 31)
    assert embed(client, PAIR) == small
    assert len(set(threads)) == len(threads) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/encode", 405), ("GET", "/nowhere", 404), ("POST", "/encode/", 404)]
)
def test_wrong_paths_and_methods_are_problems_too(method: str, path: str, status: int, client: TestClient) -> None:
    """Every error has the one shape."""
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.json()["status"] == status
    if status == 405:
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/encode", "/v1/embeddings", "/v2/models/made/infer", "/health/live", "/nowhere"])
@pytest.mark.parametrize("hosts", [[], [b"a", b"a"], [b"a", b"b"]], ids=["none", "one twice", "two"])
def test_a_request_names_its_host_once(path: str, hosts: list[bytes], client: TestClient) -> None:
    """Otherwise it is 400, whatever is asked; HTTP/1.0 may leave it out, and another header may come twice."""
    head = [(b"host", host) for host in hosts] + [(b"x-other", b"1"), (b"x-other", b"2")]

    def ask(version: str, headers: list[tuple[bytes, bytes]]) -> int:
        scope = {"type": "http", "http_version": version, "method": "GET", "path": path, "headers": headers}
        statuses: list[int] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        asyncio.run(client.app({"query_string": b"", **scope}, receive, send))  # type: ignore[arg-type]
        return statuses[0]

    assert ask("1.1", head) == 400
    assert (ask("1.0", head) == 400) is bool(hosts)
    assert ask("1.1", [(b"host", b"a"), (b"x-other", b"1"), (b"x-other", b"2")]) != 400


ODD_PADDING = ["NaN", "Infinity", "-Infinity", "1e400", "3e38", "0"]


@pytest.mark.parametrize("odd", ODD_PADDING)
def test_padding_may_hold_any_number_in_every_format(odd: str, client: TestClient) -> None:
    """What `lengths` cuts off is not looked at, be it no finite number: in JSON of both kinds, and raw."""
    plain = client.post("/encode", json={"sequences": PAIR}).json()
    expected = plain["embeddings"]
    time = max(map(len, PAIR))
    lengths = [len(steps) for steps in PAIR]
    padded = [[*steps, *[["odd"] * 3] * (time - len(steps))] for steps in PAIR]
    assert lengths != [time] * len(PAIR)
    text = json.dumps(padded).replace('"odd"', odd)
    headers = {"Content-Type": "application/json"}
    native = client.post("/encode", content=f'{{"sequences": {text}, "lengths": {lengths}}}', headers=headers)
    assert native.json()["embeddings"] == expected
    shape = {"name": "sequences", "datatype": "FP32", "shape": [len(PAIR), time, 3]}
    other = {"name": "lengths", "datatype": "INT64", "shape": [len(PAIR)], "data": lengths}
    v2 = json.dumps({"inputs": [{**shape, "data": padded}, other]}).replace('"odd"', odd)
    raw = np.array(json.loads(text), "<f8").astype("<f4", casting="unsafe") if odd != "1e400" else None
    answers = [client.post("/v2/models/made/infer", content=v2, headers=headers)]
    if raw is not None:
        head = json.dumps({"inputs": [{**shape, "parameters": {"binary_data_size": raw.nbytes}}, other]}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        answers.append(client.post("/v2/models/made/infer", content=head + raw.tobytes(), headers=headers | length))
    for answer in answers:
        (output,) = answer.json()["outputs"]
        assert output["data"] == [number for row in expected for number in row]
    if not np.isfinite(float(odd)):  # in a valid step it is refused
        refused = client.post("/encode", content=f'{{"sequences": {text}, "lengths": {[time] * 2}}}', headers=headers)
        assert refused.json()["path"] == f"sequences[{lengths.index(min(lengths))}][{min(lengths)}][0]"
