"""The one table from the domain's errors to HTTP answers; the OpenAPI responses are generated from it.

Answers are `application/problem+json` (RFC 9457), or what clients of another dialect expect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from service import errors
from service.errors import LengthwiseError
from service.settings import variable_of

MEDIA_TYPE = "application/problem+json"
INVALID = 422  # the status of a request that cannot be answered as it is written, unless its dialect has another
TYPE_PREFIX = "urn:lengthwise:problem:"

RETRY_HEADERS: dict[str, Any] = {
    "Retry-After": {"description": "Seconds until trying again may succeed.", "schema": {"type": "integer"}},
    "retry-after-ms": {"description": "The same in milliseconds.", "schema": {"type": "integer"}},
}


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    type: str = Field(description="Names the kind of problem; it does not change.")
    title: str
    status: int
    detail: str = Field(description="What was found, what was expected, and which setting changes that.")
    path: str | None = Field(None, description="The place in the request, as `sequences[3][17]`.")
    limit: int | float | None = Field(None, description="The bound that was met, in the unit its setting names.")
    setting: str | None = Field(None, description="The environment variable behind the bound.")
    line: int | None = Field(None, description="In a stream, the line of the request, from 1.")
    request_id: str


class OpenAIProblem(BaseModel):
    """Why a request was not answered, to clients of OpenAI."""

    message: str
    type: str = Field(description="`invalid_request_error`, or `server_error` if the request is not at fault.")
    param: str | None = Field(None, description="The place in the request, as `input[3][17]`.")
    code: str | None = Field(None, description="Names the kind of problem; it does not change.")


class OpenAIError(BaseModel):
    """A problem as clients of OpenAI read it."""

    error: OpenAIProblem


class KServeError(BaseModel):
    """A problem as clients of the Open Inference Protocol read it."""

    error: str


SCHEMAS: tuple[type[BaseModel], ...] = (Problem, OpenAIError, KServeError)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How problems are told to one kind of client.

    Attributes:
        media_type: of the body.
        schema: of the body.
        write: turns a problem into a body.
        invalid: the status of a request that cannot be answered as it is written.
    """

    media_type: str
    schema: type[BaseModel]
    write: Callable[[Problem], BaseModel]
    invalid: int = 400

    def status_of(self, refusal: "Refusal") -> int:
        """Return the status this dialect gives a refusal."""
        return self.invalid if refusal.status == INVALID else refusal.status


def _write_openai(problem: Problem) -> OpenAIError:
    kind = "server_error" if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    code = problem.type.rpartition(":")[2].replace("-", "_") if problem.type.startswith(TYPE_PREFIX) else None
    return OpenAIError(error=OpenAIProblem(message=problem.detail, type=kind, param=problem.path, code=code))


NATIVE = Dialect(MEDIA_TYPE, Problem, lambda problem: problem, INVALID)
OPENAI = Dialect("application/json", OpenAIError, _write_openai)
KSERVE = Dialect("application/json", KServeError, lambda problem: KServeError(error=problem.detail))


def dialect_of(path: str) -> Dialect:
    """Return the dialect of a path, whether or not there is a route."""
    if path.endswith("predict"):  # in KServe's first version, which Vertex AI speaks, too
        return KSERVE
    return {"v1": OPENAI, "v2": KSERVE}.get(path.lstrip("/").partition("/")[0], NATIVE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one kind of error is answered.

    Attributes:
        name: what the kind goes by in a problem's type, in metrics and in logs; it never changes.
        status: the HTTP status.
        title: what happened, the same words each time.
        retry: what `x-should-retry` tells clients, if it differs from what they assume of the status.
        header: the header at fault, unless the error names a place.
        remedy: a sentence that tells what to send instead, in the words of HTTP.
        is_overload: whether LENGTHWISE_OVERLOAD_STATUS may put another status in its place.
        closes: whether the connection is closed after it.
    """

    name: str
    status: int
    title: str
    retry: bool | None = None
    header: str | None = None
    remedy: str = ""
    is_overload: bool = False
    closes: bool = False


REFUSALS: dict[type[LengthwiseError], Refusal] = {
    errors.MalformedJson: Refusal("malformed-json", 422, "The body is not JSON"),
    errors.MalformedBody: Refusal("malformed-body", 422, "The body is not in the format it claims"),
    errors.InvalidField: Refusal("invalid-field", 422, "A field is missing, unknown or of the wrong kind"),
    errors.NotANumber: Refusal("not-a-number", 422, "Something else stands where a number belongs"),
    errors.NonFiniteValue: Refusal("non-finite-value", 422, "A number is not finite"),
    errors.FeatureMismatch: Refusal("feature-mismatch", 422, "A step has the wrong number of features"),
    errors.UnknownToken: Refusal("unknown-token", 422, "A token id is not in the vocabulary"),
    errors.NotOffered: Refusal("not-offered", 422, "The model does not have what was asked for"),
    errors.EmptyRequest: Refusal("empty-request", 422, "There is no sequence"),
    errors.EmptySequence: Refusal("empty-sequence", 422, "A sequence has no steps"),
    errors.InvalidLengths: Refusal("invalid-lengths", 422, "The lengths do not fit the sequences"),
    errors.InvalidHost: Refusal("invalid-host", 400, "The request names no host, or several", header="Host"),
    errors.InvalidKey: Refusal(
        "invalid-key",
        401,
        "The request lacks a valid key",
        header="Authorization",
        remedy="Send the header `Authorization: Bearer KEY`.",
    ),
    errors.UnknownModel: Refusal("unknown-model", 404, "There is no such model"),
    errors.ModelRefused: Refusal("model-refused", 422, "The artifact cannot be served", retry=False),
    errors.UnexpectedModel: Refusal(
        "unexpected-model", 412, "The model is another than expected", header="X-Expect-Model"
    ),
    errors.BodyTooLarge: Refusal("body-too-large", 413, "The body is too large", retry=False),
    errors.LineTooLong: Refusal("line-too-long", 413, "A line is too long", retry=False),
    errors.AnswerTooLarge: Refusal("answer-too-large", 413, "The answer would be too large", retry=False),
    errors.SequenceTooLong: Refusal("sequence-too-long", 413, "A sequence is too long", retry=False),
    errors.RequestTooLong: Refusal("request-too-long", 413, "The request has too many steps", retry=False),
    errors.TextTooLong: Refusal("text-too-long", 413, "A text is too long", retry=False),
    errors.TextsTooLong: Refusal("texts-too-long", 413, "The texts are too long", retry=False),
    errors.UnsupportedMediaType: Refusal(
        "unsupported-media-type", 415, "The body is of an unsupported kind", header="Content-Type"
    ),
    errors.ExtraMissing: Refusal(
        "extra-missing", 415, "The body needs a package that is not installed", header="Content-Type"
    ),
    errors.NotAcceptable: Refusal("not-acceptable", 406, "The answer cannot be of an accepted kind", header="Accept"),
    errors.BodyTooSlow: Refusal("body-too-slow", 408, "The body came too slowly", closes=True),
    errors.ReaderStalled: Refusal("reader-stalled", 408, "The answers were not read"),
    errors.RateExceeded: Refusal("rate-exceeded", 429, "The key is over its rate"),
    errors.QueueFull: Refusal("queue-full", 503, "The queue is full", is_overload=True),
    errors.AnswersUnread: Refusal("answers-unread", 503, "Too much is unread"),
    errors.TooManyConnections: Refusal("too-many-connections", 503, "There are too many connections", closes=True),
    errors.TooManyCalls: Refusal("too-many-calls", 503, "There are too many calls"),
    errors.WorkersBehind: Refusal("workers-behind", 503, "Some workers have not followed the change"),
    errors.Draining: Refusal("draining", 503, "The service is shutting down"),
    errors.DeadlineUnreachable: Refusal(
        "deadline-unreachable", 504, "The answer would be late", header="X-Request-Timeout-Ms"
    ),
    errors.DeadlinePassed: Refusal("deadline-passed", 504, "The time allowed is over", header="X-Request-Timeout-Ms"),
    errors.RunLost: Refusal("run-lost", 500, "The run was lost", retry=False),
    errors.Stuck: Refusal("stuck", 503, "Nothing moves"),
    errors.RunFailed: Refusal("run-failed", 500, "The model failed on a sequence", retry=False),
}


# What goes with a status, whatever the error.
STATUS_HEADERS: dict[int, dict[str, str]] = {401: {"WWW-Authenticate": "Bearer"}}


def describe(error: LengthwiseError, request_id: str, dialect: Dialect = NATIVE, line: int | None = None) -> Problem:
    """Describe a domain error as the table says."""
    refusal = REFUSALS[type(error)]
    return Problem(
        type=_type_of(type(error)),
        title=refusal.title,
        status=dialect.status_of(refusal),
        detail=" ".join(filter(None, (error.tell(variable_of), refusal.remedy))),
        path=error.path or refusal.header,
        limit=error.limit,
        setting=error.setting and variable_of(error.setting),
        line=line,
        request_id=request_id,
    )


def answer_error(
    error: LengthwiseError, request_id: str, dialect: Dialect = NATIVE, overload_status: int = 503
) -> Response:
    """Answer a domain error as the table says, and one of overload as the setting does."""
    refusal, problem = REFUSALS[type(error)], describe(error, request_id, dialect)
    headers = dict(STATUS_HEADERS.get(refusal.status, {}))
    if refusal.is_overload:
        problem.status = overload_status
    if refusal.closes:
        headers["Connection"] = "close"
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
        headers["retry-after-ms"] = str(error.retry_after_ms)
    if refusal.retry is not None:
        headers["x-should-retry"] = str(refusal.retry).lower()
    return _respond(problem, dialect, headers)


def answer_status(
    status: int, detail: str, request_id: str, dialect: Dialect = NATIVE, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a bare status, for what never reached a route or fell out of one."""
    title = HTTPStatus(status).phrase
    problem = Problem(type="about:blank", title=title, status=status, detail=detail, request_id=request_id)
    return _respond(problem, dialect, headers or {})


def name_problem(kind: type[LengthwiseError]) -> str:
    """Return the name a kind of error goes by, as `empty-sequence`."""
    return REFUSALS[kind].name


def document(*kinds: type[LengthwiseError], dialect: Dialect = NATIVE) -> dict[int | str, dict[str, Any]]:
    """Write the OpenAPI responses of a route that can fail in these ways."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        refusal = REFUSALS[kind]
        for status in (dialect.status_of(refusal), *([429] if refusal.is_overload else [])):
            content = {dialect.media_type: _content(dialect)}
            response = responses.setdefault(status, {"description": HTTPStatus(status).phrase, "content": content})
            example = Problem(
                type=_type_of(kind),
                title=refusal.title,
                status=status,
                detail=kind.__doc__ or "",
                request_id="0d4f7c1b",
            )
            response["content"][dialect.media_type]["examples"][name_problem(kind)] = {
                "summary": refusal.title,
                "value": _dump(example, dialect),
            }
            if issubclass(kind, errors.Unavailable):
                response["headers"] = RETRY_HEADERS
    return responses


def document_status(description: str) -> dict[str, Any]:
    """Write the OpenAPI response of a bare status."""
    return {"description": description, "content": {NATIVE.media_type: _content(NATIVE)}}


def _content(dialect: Dialect) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{dialect.schema.__name__}"}, "examples": {}}


def _dump(problem: Problem, dialect: Dialect) -> dict[str, Any]:
    return dialect.write(problem).model_dump(mode="json", exclude_none=dialect is NATIVE)


def _respond(problem: Problem, dialect: Dialect, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(_dump(problem, dialect)), problem.status, headers, dialect.media_type)


def _type_of(kind: type[LengthwiseError]) -> str:
    return TYPE_PREFIX + name_problem(kind)
