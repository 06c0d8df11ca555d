"""What the service shows of itself: metrics that move, and the last batches for admins."""

import asyncio
import gc
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service import __version__
from service.api import fellows
from service.api.endpoints import whole
from service.api.worker import Shared, Staff, Worker
from service.app import create_app
from service.batching.jobs import Entry, Job, Run
from service.batching.queue import Bounds
from service.batching.sharing import Queues
from service.encoder.sequences import Features, join
from service.encoder.session import open_session
from service.observing.counts import KEPT_BATCHES, SECONDS, Histogram, Telemetry
from service.settings import Settings
from tests.api.test_encode import PAIR
from tests.batching.test_engine import Target, make_engine, make_session
from tests.batching.test_queue import make_costs
from tests.conftest import draw_sequences

Serve = Callable[..., TestClient]

# Each metric, what it is, and its labels; those of the whole process have no model.
MODEL_METRICS: dict[str, tuple[str, set[str]]] = {
    "lengthwise_requests": ("counter", {"route", "code"}),
    "lengthwise_rejected": ("counter", {"reason"}),
    "lengthwise_cancelled": ("counter", {"where"}),
    "lengthwise_artifacts": ("counter", {"change"}),
    "lengthwise_steps": ("counter", {"kind"}),
    "lengthwise_run_seconds": ("counter", set()),
    "lengthwise_text_tokens": ("counter", {"kind"}),
    "lengthwise_nonfinite": ("counter", set()),
    "lengthwise_request_duration_seconds": ("histogram", set()),
    "lengthwise_stage_duration_seconds": ("histogram", {"stage"}),
    "lengthwise_batch_sequences": ("histogram", set()),
    "lengthwise_batch_steps": ("histogram", set()),
    "lengthwise_queue_sequences": ("gauge", set()),
    "lengthwise_queue_steps": ("gauge", set()),
    "lengthwise_queue_drain_seconds": ("gauge", set()),
    "lengthwise_cost_error_ratio": ("gauge", set()),
    "lengthwise_build_info": ("gauge", {"version", "model_sha256", "provider", "onnxruntime", "python"}),
}
METRICS = {name: (kind, {"model", *labels}) for name, (kind, labels) in MODEL_METRICS.items()} | {
    "lengthwise_event_loop_lag_seconds": ("histogram", set()),
    "lengthwise_inflight_requests": ("gauge", set()),
    "lengthwise_connections": ("gauge", set()),
    "lengthwise_closed_connections": ("counter", {"why"}),
    "lengthwise_unread_bytes": ("gauge", set()),
    "lengthwise_runners": ("gauge", {"state"}),
    "lengthwise_runner_last_progress_seconds": ("gauge", set()),
}


class Scrape:
    """The metrics of a service at one moment."""

    def __init__(self, client: TestClient) -> None:
        """Ask for them."""
        response = client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        self.families = {family.name: family for family in text_string_to_metric_families(response.text)}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def read(self, name: str, model: str | None = "made", **labels: str) -> float:
        """Return a value of a model's, of requests to none where that is empty, or of the process's."""
        labels |= {} if model is None else {"model": model}
        return self._values[f"lengthwise_{name}", frozenset(labels.items())]


def test_the_metrics_are_those_of_the_list(client: TestClient) -> None:
    """Each metric is there from the start, of its type, with its labels and the model's name."""
    client.post("/encode", json={"sequences": PAIR})
    families = Scrape(client).families
    ours = {name: family for name, family in families.items() if name.startswith("lengthwise_")}
    found = {
        name: (family.type, set().union(*(sample.labels for sample in family.samples)) - {"le"})
        for name, family in ours.items()
    }
    assert found == METRICS
    models = {sample.labels["model"] for name in MODEL_METRICS for sample in ours[name].samples}
    assert models == {"made", ""}  # which is of requests that ask no model that is here
    assert "process_resident_memory_bytes" in families


def test_a_request_moves_what_it_should(client: TestClient) -> None:
    """Two sequences of 3 and 1 steps: one request, each stage once, their steps and what was computed for them."""
    usage = client.post("/encode", json={"sequences": PAIR}).json()["usage"]
    scrape = Scrape(client)
    assert scrape.read("requests_total", route="/encode", code="200") == 1
    assert scrape.read("request_duration_seconds_count") == 1
    assert scrape.read("request_duration_seconds_sum") > 0
    for stage in ("decode", "queue", "run", "encode"):
        assert scrape.read("stage_duration_seconds_count", stage=stage) == 1
        assert scrape.read("stage_duration_seconds_sum", stage=stage) > 0
    assert scrape.read("batch_sequences_sum") == 2
    assert scrape.read("batch_steps_sum") == usage["padded_steps"]
    assert scrape.read("steps_total", kind="valid") == 4
    assert scrape.read("steps_total", kind="padded") == usage["padded_steps"]
    assert scrape.read("run_seconds_total") > 0
    assert scrape.read("cost_error_ratio") > 0
    assert scrape.read("inflight_requests", None) == 0
    assert scrape.read("queue_drain_seconds") == 0
    assert scrape.read("runner_last_progress_seconds", None) == 0


def test_latencies_are_of_what_was_encoded(client: TestClient) -> None:
    """A refusal is counted by its reason and its status, and makes no latency look better."""
    client.post("/encode", json={"sequences": []})
    client.post("/encode", json={"sequences": PAIR, "model": "other"})
    client.get("/health/live")
    scrape = Scrape(client)
    assert scrape.read("rejected_total", reason="empty-request") == 1
    assert scrape.read("rejected_total", "", reason="unknown-model") == 1
    assert scrape.read("rejected_total", reason="queue-full") == 0
    assert scrape.read("requests_total", route="/encode", code="422") == 1
    assert scrape.read("requests_total", "", route="/encode", code="404") == 1
    assert scrape.read("requests_total", "", route="/health/live", code="200") == 1
    assert scrape.read("request_duration_seconds_count") == 0


@pytest.mark.parametrize(
    ("path", "route", "code"),
    [
        ("/v1/models/made", "/v1/models/{model}", "200"),
        ("/v2/models/made/ready", "/v2/models/{model}/ready", "200"),
        ("/v1/models/{model}", "/v1/models/{model}", "404"),
        ("/v2/models/made/versions/7/ready", "/v2/models/{model}/versions/{version}/ready", "404"),
        ("/nowhere/17", "other", "404"),
        ("/docs", "/docs", "200"),
        ("/openapi.json", "/openapi.json", "200"),
    ],
)
def test_routes_are_few(path: str, route: str, code: str, client: TestClient) -> None:
    """A path with parameters counts under its template, and paths nobody documented under one name."""
    client.get(path)
    model = "made" if path == "/v2/models/made/ready" else ""
    assert Scrape(client).read("requests_total", model, route=route, code=code) == 1


@contextmanager
def holding(client: TestClient, monkeypatch: pytest.MonkeyPatch, sequences: list[Any]) -> Iterator[None]:
    """Have a request under way whose first run does not end before the block does."""
    began, released = threading.Event(), threading.Event()
    session = client.app.state.service.models.find(None).session  # type: ignore[attr-defined]
    run = session.run

    def hold(batch: Any) -> Any:
        began.set()
        assert released.wait(60)
        return run(batch)

    monkeypatch.setattr(session, "run", hold)
    queues = client.app.state.service.engine.queues  # type: ignore[attr-defined]
    monkeypatch.setattr(queues, "is_little", lambda _run: False)  # the event loop must not be held itself
    with ThreadPoolExecutor(1) as others:
        answer = others.submit(client.post, "/encode", json={"sequences": sequences})
        try:
            assert began.wait(60)
            yield
        finally:
            released.set()
        assert answer.result().status_code == 200


def test_the_gauges_show_what_waits_and_runs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a run under way that does not end: the rest of its request, when the queue may drain, and how long it is."""
    client = serve(runners=1, max_batch_sequences=1)
    sequences = [steps.tolist() for steps in draw_sequences([5, 7, 9])]
    with holding(client, monkeypatch, sequences):
        scrape = Scrape(client)
        later = Scrape(client)
    assert scrape.read("inflight_requests", None) == 1
    assert scrape.read("queue_sequences") == 2
    assert scrape.read("queue_steps") == 5 + 7  # of equal urgency the longest runs first
    assert scrape.read("queue_drain_seconds") > 0
    assert 0 < scrape.read("runner_last_progress_seconds", None) < later.read("runner_last_progress_seconds", None) < 60
    assert Scrape(client).read("queue_sequences") == 0
    states = {"busy": scrape, "idle": Scrape(client)}
    assert {state: one.read("runners", None, state=state) for state, one in states.items()} == {"busy": 1, "idle": 1}
    assert scrape.read("runners", None, state="idle") == scrape.read("runners", None, state="lost") == 0


def test_embeddings_that_are_not_finite_are_counted(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sequence whose embedding holds NaN counts one, and its request as rejected."""
    session = client.app.state.service.models.find(None).session  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "run", lambda batch: np.full((len(batch.lengths), 16), np.nan, dtype=np.float32))
    assert client.post("/encode", json={"sequences": PAIR}).status_code == 500
    scrape = Scrape(client)
    assert scrape.read("nonfinite_total") == 2
    assert scrape.read("rejected_total", reason="run-failed") == 1


def test_a_client_that_hangs_up_while_sending_counts_as_cancelled(client: TestClient) -> None:
    """It was in its body."""
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    scope = {"type": "http", "method": "POST", "path": "/encode", "query_string": b"", "headers": []}

    async def receive() -> Any:
        return next(messages)

    async def send(_message: object) -> None:
        pass

    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert Scrape(client).read("cancelled_total", "", where="body") == 1


def test_cancelled_requests_are_counted_by_where_they_were(artifact: Path) -> None:
    """One that runs and one that waits are told apart."""
    began, released = threading.Event(), threading.Event()

    def hold(run: Any, batch: Any) -> Any:
        began.set()
        assert released.wait(60)
        return run(batch)

    session = make_session(artifact, hold)
    telemetry = Telemetry([])

    async def scenario() -> None:
        engine = make_engine(session, runners=1, observers=[telemetry])
        try:
            tasks = []
            for length in (3, 4):
                tasks.append(asyncio.create_task(engine.encode(join(draw_sequences([length]), Features(3)))))
                await asyncio.to_thread(began.wait, 60)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            released.set()
            engine.close()

    asyncio.run(scenario())
    assert telemetry.of("made").cancelled == {"body": 0, "queue": 1, "run": 1, "answer": 0}


def test_the_event_loops_lag_is_timed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after look at how late a timer fires."""
    monkeypatch.setattr("service.observing.counts.TICK_SECONDS", 0.001)
    client = serve()
    while Scrape(client).read("event_loop_lag_seconds_count", None) < 2:
        pass


def test_the_build_is_told(client: TestClient) -> None:
    """Which service, encoder and runtime these figures are of."""
    (sample,) = Scrape(client).families["lengthwise_build_info"].samples
    assert sample.value == 1
    assert sample.labels["version"] == __version__
    assert sample.labels["onnxruntime"] == onnxruntime.__version__
    assert sample.labels["model_sha256"] == client.get("/info").json()["models"][0]["sha256"]


def test_prometheus_chooses_the_format(client: TestClient) -> None:
    """Asked for OpenMetrics, that is what it is, to its end."""
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")


def test_a_histogram_counts_each_value_up_to_its_bound() -> None:
    """A value at a bound is under it, one beyond all is under infinity, and the sum is of all."""
    histogram = Histogram((1.0, 2.5))
    for values in ((0.5,), (1.0, 1.5, 9.0)):
        histogram.observe(*values)
    assert histogram.buckets() == [("1.0", 2), ("2.5", 3), ("+Inf", 4)]
    assert histogram.sum == 12.0
    assert SECONDS[0] == 50e-6
    assert sorted(SECONDS) == list(SECONDS)


KEY = "a-key-of-admins-only"


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {KEY}"}])
def test_without_an_admin_key_there_are_no_batches_to_see(headers: dict[str, str], client: TestClient) -> None:
    """The path is like one that does not exist."""
    response = client.get("/debug/batches", headers=headers)
    nowhere = client.get("/debug/nothing")
    assert response.status_code == nowhere.status_code == 404
    assert {**response.json(), "request_id": ""} == {**nowhere.json(), "request_id": ""}


@pytest.mark.parametrize("sent", [None, "Bearer", "Bearer another key", f"Basic {KEY}", KEY, f"Bearer {KEY}é"])
def test_batches_are_for_admins(sent: str | None, serve: Serve) -> None:
    """Without the key, or with another, it is 401 and says what it takes."""
    headers = [] if sent is None else [(b"Authorization", sent.encode("latin-1"))]
    response = serve(admin_key=KEY).get("/debug/batches", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "batches" not in response.json()


def test_the_last_batches_are_told_without_what_was_in_them(serve: Serve) -> None:
    """Newest first: lengths, padding, why each was cut there, predicted and actual seconds, and nothing else."""
    client = serve(admin_key=KEY, runners=1, max_batch_sequences=3)
    for lengths in ([2], [4, 4, 4, 4]):
        sequences = [steps.tolist() for steps in draw_sequences(lengths)]
        client.post("/encode", json={"sequences": sequences})
    response = client.get("/debug/batches", headers={"Authorization": f"Bearer {KEY}"})
    batches = response.json()["batches"]
    assert batches[-1]["lengths"] == [2]
    assert sorted(batch["lengths"] for batch in batches[:-1]) in ([[4], [4, 4, 4]], [[4, 4], [4, 4]])
    assert batches[0]["cut"] == batches[-1]["cut"] == "all"
    for batch in batches:
        assert set(batch) == {
            "model",
            "ended",
            "lengths",
            "padded_steps",
            "cut",
            "predicted_seconds",
            "seconds",
            "failed",
        }
        assert batch["padded_steps"] == len(batch["lengths"]) * max(batch["lengths"])
        assert batch["predicted_seconds"] > 0
        assert batch["seconds"] > 0
        assert batch["failed"] == 0
    assert [batch["ended"] for batch in batches] == sorted((batch["ended"] for batch in batches), reverse=True)


def make_target(artifact: Path) -> Target:
    """Make what batches are told of."""
    return Target("made", open_session(artifact), Queues(1).open(make_costs(), Bounds(64, 1000)))


def test_padding_is_told_from_valid_steps(artifact: Path) -> None:
    """A batch of 1 and 3 steps has 4 that are valid, and computes 6."""
    telemetry, made = Telemetry([]), make_target(artifact)
    job = Job([1, 3])
    run = Run([Entry(job, 0, 1), Entry(job, 1, 3)], 3, 0.0, 1e-3, 1e-3, "all")
    telemetry.see_batch(made, run, 1e-3, failed=0, nonfinite=0)
    telemetry.settle()
    counts = telemetry.of("made")
    assert (counts.valid_steps, counts.padded_steps) == (4, 6)


def test_only_the_last_hundred_batches_are_kept(artifact: Path) -> None:
    """Those before them cost no memory."""
    telemetry, made = Telemetry([]), make_target(artifact)
    for length in range(1, KEPT_BATCHES + 8):
        run = Run([Entry(Job([length]), 0, length)], length, 0.0, 1e-3, 1e-3, "all")
        telemetry.see_batch(made, run, 1e-3, failed=0, nonfinite=0)
    telemetry.settle()
    assert [ran.steps for ran in telemetry.batches] == list(range(8, KEPT_BATCHES + 8))


def test_the_key_is_never_told(serve: Serve) -> None:
    """`/info` tells every setting but this one's value."""
    response = serve(admin_key=KEY).get("/info")
    assert KEY not in response.text
    assert response.json()["settings"]["admin_key"] == "**********"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="several processes serve on Linux only")
@pytest.mark.parametrize("answers", [True, False], ids=["answers", "stands still"])
def test_a_question_between_processes_closes_its_socket(
    answers: bool,  # noqa: FBT001 - a parameter of the test
    artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the other process answers or stands still, the asking one keeps nothing of the question open."""
    asked: list[socket.socket] = []
    call = Worker.call

    def note(worker: Worker, number: int) -> socket.socket:
        asked.append(call(worker, number))
        return asked[-1]

    async def ask() -> tuple[int, dict[int, Any]]:
        app = create_app(Settings(model=artifact))
        async with app.fallback.router.lifespan_context(app.fallback):
            service = app.state.service
            with closing(socket.socket()) as unused:
                shared = Shared.among(Staff(2), has_rates=False)
                service.worker, other = (Worker(number, unused, shared, shared.board.view(number)) for number in (0, 1))
                if answers:
                    telling = asyncio.create_task(whole.tell_others(service, other))
                    await asyncio.sleep(0)
                else:
                    silent = other.listen()
                    silent.listen()
                told = await fellows.ask_others(service.worker, "counts", seconds=60.0 if answers else 0.05)
                service.worker = None
                await asyncio.sleep(0)  # in which a transport that was closed lets go of its socket
                await asyncio.sleep(0)
                (question,) = asked
                handle = question.fileno()
                if answers:
                    telling.cancel()
                else:
                    silent.close()
                return handle, told

    monkeypatch.setattr(Worker, "call", note)
    gc.disable()  # which would close it, too, some time later
    try:
        handle, told = asyncio.run(ask())
    finally:
        gc.enable()
    assert handle == -1
    assert bool(told[1]) == answers
