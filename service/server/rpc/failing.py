"""Tells callers of gRPC of a problem: a status, its sentence, and details that programs read."""

from dataclasses import dataclass

import grpc
import orjson
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from service.api.problems import REFUSALS, TYPE_PREFIX
from service.server.rpc.carrying import Reply

DETAILS = "grpc-status-details-bin"
DOMAIN = "lengthwise"
LASTING = frozenset({"INVALID_KEY", "DRAINING"})  # they meet all that follows in a stream, too
PASSING = frozenset({"QUEUE_FULL", "RATE_EXCEEDED", "ANSWERS_UNREAD"})  # a stream waits until they are over


# By the status of HTTP.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    406: grpc.StatusCode.INVALID_ARGUMENT,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no answer.

    Attributes:
        code: the status of gRPC.
        reason: the problem's name, as `google.rpc.ErrorInfo` writes reasons: QUEUE_FULL.
        sentence: what happened, and what to do.
        metadata: what goes with it, `google.rpc.Status` with its details among it.
        retry_seconds: after which trying again may succeed; None if it will not, or nobody knows.
    """

    code: grpc.StatusCode
    reason: str
    sentence: str
    metadata: tuple[tuple[str, str | bytes], ...]
    retry_seconds: float | None


def code_of(problem_type: str, status: int) -> grpc.StatusCode:
    """Return the code of a problem, by its type and its status of HTTP; a queue that is full is exhausted."""
    name = problem_type.removeprefix(TYPE_PREFIX)
    found = next((refusal for refusal in REFUSALS.values() if refusal.name == name), None)
    if found and found.is_overload:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return CODES.get(found.status if found else status, grpc.StatusCode.UNKNOWN)


def read_failure(reply: Reply) -> Failure:
    """Read what the app answered in place of a message; nothing if none came."""
    if not reply.body:
        return Failure(grpc.StatusCode.CANCELLED, "", "The call ended before its message.", tuple(reply.metadata), None)
    problem = orjson.loads(reply.body)
    kind, sentence = str(problem["type"]), str(problem["detail"])
    code = code_of(kind, reply.status)
    reason = kind.removeprefix(TYPE_PREFIX).replace("-", "_").upper()
    status = Status(code=Code.Value(code.name), message=sentence)
    told = {name: str(problem[name]) for name in ("path", "limit", "setting") if problem.get(name) is not None}
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=told))
    if code is grpc.StatusCode.INVALID_ARGUMENT and problem.get("path"):
        violation = BadRequest.FieldViolation(field=problem["path"], description=sentence)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    milliseconds = dict(reply.metadata).get("retry-after-ms")
    seconds = None if milliseconds is None else int(milliseconds) / 1000
    if seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(int(1000 * seconds))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return Failure(code, reason, sentence, (*reply.metadata, (DETAILS, status.SerializeToString())), seconds)
