"""Calls of gRPC to a service of two workers: each refuses as one alone does, and loses nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client.parser import text_string_to_metric_families

from bench.load.servers import find_port
from service.codecs.kserve import messages
from service.encoder.session import open_session
from tests.server.test_grpc import BATCH, typed
from tests.server.test_processes import wait_for_both
from tests.several import start_two
from tests.waiting import wait_until

INFER = f"/{messages.SERVICE}/ModelInfer"
STEPS = 60_000  # of a sequence that is encoded for long
LIMITS = [f"--max-{what}-steps={STEPS}" for what in ("sequence", "request", "queue", "batch")]
ALONE = [("grpc.use_local_subchannel_pool", 1)]  # a channel has a connection of its own


class Pair(NamedTuple):
    """A service of two workers.

    Attributes:
        url: its address of HTTP.
        calls: what asks for embeddings, over one connection to each worker.
    """

    url: str
    calls: list[Any]


def count(url: str, name: str, **labels: str) -> dict[str, float]:
    """Return what a metric's samples of these labels add up to in each worker."""
    counts = Counter[str]()
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics?by=process").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                counts[sample.labels["process"]] += sample.value  # type: ignore[assignment]
    return dict(counts)


@pytest.fixture(scope="module")
def pair(artifact: Path) -> Iterator[Pair]:
    """Two workers, each with room for one long sequence that waits while another runs."""
    port = find_port()
    flags = ["--model", str(artifact), "--grpc-port", str(port), "--runners", "1", *LIMITS]
    with start_two(*flags) as (process, url), ExitStack() as opened:
        wait_for_both(process, url)
        found: dict[str | None, Any] = {}

        def has_both() -> bool:
            before = count(url, "lengthwise_requests_total", route=INFER)
            channel = opened.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", ALONE))
            asked = channel.unary_unary(INFER)
            asked(typed().SerializeToString(), timeout=60, wait_for_ready=True)

            def find_worker() -> str | None:
                after = count(url, "lengthwise_requests_total", route=INFER)
                return next((one for one in after if after[one] > before.get(one, 0)), None)

            wait_until(find_worker)  # it counts a call once it has answered it
            found.setdefault(find_worker(), asked)
            return len(found) == 2

        wait_until(has_both)
        yield Pair(url, [*found.values()])


def read(error: Any) -> tuple[grpc.StatusCode, str, Status]:
    """Return the status of a call that failed, its reason and its details; the caller's own has none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    status, info = Status(), ErrorInfo()
    if details:
        status.ParseFromString(details)
        status.details[0].Unpack(info)
    return error.code(), info.reason, status


def long() -> bytes:
    """Make a request that is encoded for long."""
    request = messages.message("ModelInferRequest", model_name="made", raw_input_contents=[bytes(4 * 3 * STEPS)])
    request.inputs.add(name="sequences", datatype="FP32", shape=[1, STEPS, 3])
    return bytes(request.SerializeToString())


def is_at_rest(url: str) -> bool:
    """Whether no worker has a request under way."""
    return set(count(url, "lengthwise_inflight_requests").values()) == {0.0}


def test_every_worker_refuses_as_one_alone_does(pair: Pair, artifact: Path) -> None:
    """Bad input, a model that is not here and time that has run out; what is right has the session's bits."""
    expected = open_session(artifact).run(BATCH)
    bent, foreign, late = typed(), typed(model_version="9"), typed()
    bent.inputs[0].shape[0] = 3
    late.parameters["timeout"].int64_param = 1
    refused = (
        (bent.SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY"),
        (foreign.SerializeToString(), grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        (late.SerializeToString(), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE"),
    )
    for asked in pair.calls:
        for body, code, reason in refused:
            with pytest.raises(grpc.RpcError) as caught:
                asked(body, timeout=60)
            assert read(caught.value)[:2] == (code, reason)
        with pytest.raises(grpc.RpcError) as caught:
            asked(long(), timeout=0.001)
        assert read(caught.value)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        answer = messages.decode("ModelInferResponse", asked(typed().SerializeToString(), timeout=60))
        found = np.array(answer.outputs[0].contents.fp32_contents, np.float32)
        assert found.tobytes() == expected.tobytes()
    wait_until(lambda: is_at_rest(pair.url))


def require_full(error: Any) -> None:
    """Hold that a call found no room, and was told when to come again."""
    code, reason, status = read(error)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    retry = RetryInfo()
    assert status.details[-1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() > 0


def test_a_crowd_at_any_worker_is_answered_or_told_when_to_come_again(pair: Pair) -> None:
    """Of twelve long calls some are answered, the others get RESOURCE_EXHAUSTED with a time, and each ends."""
    body = long()
    for asked in pair.calls:
        crowd = [asked.future(body, timeout=120) for _ in range(12)]
        failed = [error for error in (call.exception() for call in crowd) if error]
        assert 0 < len(failed) < len(crowd)
        for error in failed:
            require_full(error)
    wait_until(lambda: is_at_rest(pair.url))


def test_a_cancelled_call_leaves_the_queue_of_any_worker(pair: Pair) -> None:
    """What waits behind a long run is withdrawn and counted, and the run before it is answered."""
    body = long()

    def count_withdrawn() -> float:
        return sum(count(pair.url, "lengthwise_cancelled_total", where="queue").values())

    for asked in pair.calls:
        before = count_withdrawn()

        def is_withdrawn(asked: Any = asked, before: float = before) -> bool:
            runs, waits, full = (asked.future(body, timeout=120) for _ in range(3))
            if error := full.exception():  # so the one before it waits, unless the run was over before this one came
                require_full(error)
            waits.cancel()
            assert runs.result()
            wait_until(lambda: is_at_rest(pair.url))
            return count_withdrawn() > before  # unless the run was over before the caller went

        wait_until(is_withdrawn)
        assert asked(typed().SerializeToString(), timeout=60)
