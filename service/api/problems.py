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

MEDIA_TYPE = "application/problem+json"
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
    type: str = Field(description="`invalid_request_error`, or `server_error` where the request is not at fault.")
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
    invalid: HTTPStatus = HTTPStatus.BAD_REQUEST

    def status_of(self, answer: "Answer") -> HTTPStatus:
        """Return the status this dialect gives an answer."""
        return self.invalid if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY else answer.status


def _write_openai(problem: Problem) -> OpenAIError:
    kind = "server_error" if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    code = problem.type.rpartition(":")[2].replace("-", "_") if problem.type.startswith(TYPE_PREFIX) else None
    return OpenAIError(error=OpenAIProblem(message=problem.detail, type=kind, param=problem.path, code=code))


NATIVE = Dialect(MEDIA_TYPE, Problem, lambda problem: problem, HTTPStatus.UNPROCESSABLE_ENTITY)
OPENAI = Dialect("application/json", OpenAIError, _write_openai)
KSERVE = Dialect("application/json", KServeError, lambda problem: KServeError(error=problem.detail))


def dialect_of(path: str) -> Dialect:
    """Return the dialect of a path, whether or not there is a route."""
    return {"v1": OPENAI, "v2": KSERVE}.get(path.lstrip("/").partition("/")[0], NATIVE)


@dataclass(frozen=True, slots=True)
class Answer:
    """How one kind of error is answered.

    Attributes:
        name: what the kind goes by in a problem's type, in metrics and in logs; it never changes.
        status: the HTTP status.
        title: what happened, the same words each time.
        retry: what `x-should-retry` tells clients, where it differs from what they assume of the status.
        is_overload: whether LENGTHWISE_OVERLOAD_STATUS may put another status in its place.
        closes: whether the connection is closed after it.
    """

    name: str
    status: HTTPStatus
    title: str
    retry: bool | None = None
    is_overload: bool = False
    closes: bool = False


ANSWERS: dict[type[LengthwiseError], Answer] = {
    errors.MalformedJson: Answer("malformed-json", HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not JSON"),
    errors.MalformedBody: Answer(
        "malformed-body", HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not in the format it claims"
    ),
    errors.InvalidField: Answer(
        "invalid-field", HTTPStatus.UNPROCESSABLE_ENTITY, "A field is missing, unknown or of the wrong kind"
    ),
    errors.NotANumber: Answer(
        "not-a-number", HTTPStatus.UNPROCESSABLE_ENTITY, "Something else stands where a number belongs"
    ),
    errors.NonFiniteValue: Answer("non-finite-value", HTTPStatus.UNPROCESSABLE_ENTITY, "A number is not finite"),
    errors.FeatureMismatch: Answer(
        "feature-mismatch", HTTPStatus.UNPROCESSABLE_ENTITY, "A step has the wrong number of features"
    ),
    errors.UnknownToken: Answer(
        "unknown-token", HTTPStatus.UNPROCESSABLE_ENTITY, "A token id is not in the vocabulary"
    ),
    errors.NotOffered: Answer(
        "not-offered", HTTPStatus.UNPROCESSABLE_ENTITY, "The model does not have what was asked for"
    ),
    errors.EmptyRequest: Answer("empty-request", HTTPStatus.UNPROCESSABLE_ENTITY, "There is no sequence"),
    errors.EmptySequence: Answer("empty-sequence", HTTPStatus.UNPROCESSABLE_ENTITY, "A sequence has no steps"),
    errors.InvalidLengths: Answer(
        "invalid-lengths", HTTPStatus.UNPROCESSABLE_ENTITY, "The lengths do not fit the sequences"
    ),
    errors.InvalidHost: Answer("invalid-host", HTTPStatus.BAD_REQUEST, "The request names no host, or several"),
    errors.InvalidKey: Answer("invalid-key", HTTPStatus.UNAUTHORIZED, "The request lacks a valid key"),
    errors.UnknownModel: Answer("unknown-model", HTTPStatus.NOT_FOUND, "There is no such model"),
    errors.ModelRefused: Answer(
        "model-refused", HTTPStatus.UNPROCESSABLE_ENTITY, "The artifact cannot be served", retry=False
    ),
    errors.UnexpectedModel: Answer(
        "unexpected-model", HTTPStatus.PRECONDITION_FAILED, "The model is another than expected"
    ),
    errors.BodyTooLarge: Answer(
        "body-too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large", retry=False
    ),
    errors.LineTooLong: Answer("line-too-long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A line is too long", retry=False),
    errors.AnswerTooLarge: Answer(
        "answer-too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The answer would be too large", retry=False
    ),
    errors.SequenceTooLong: Answer(
        "sequence-too-long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A sequence is too long", retry=False
    ),
    errors.RequestTooLong: Answer(
        "request-too-long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request has too many steps", retry=False
    ),
    errors.TextTooLong: Answer("text-too-long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A text is too long", retry=False),
    errors.TextsTooLong: Answer(
        "texts-too-long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The texts are too long", retry=False
    ),
    errors.UnsupportedMediaType: Answer(
        "unsupported-media-type", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is of an unsupported kind"
    ),
    errors.ExtraMissing: Answer(
        "extra-missing", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body needs a package that is not installed"
    ),
    errors.NotAcceptable: Answer(
        "not-acceptable", HTTPStatus.NOT_ACCEPTABLE, "The answer cannot be of an accepted kind"
    ),
    errors.BodyTooSlow: Answer("body-too-slow", HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly", closes=True),
    errors.ReaderStalled: Answer("reader-stalled", HTTPStatus.REQUEST_TIMEOUT, "The answers were not read"),
    errors.RateExceeded: Answer("rate-exceeded", HTTPStatus.TOO_MANY_REQUESTS, "The key is over its rate"),
    errors.QueueFull: Answer("queue-full", HTTPStatus.SERVICE_UNAVAILABLE, "The queue is full", is_overload=True),
    errors.AnswersUnread: Answer("answers-unread", HTTPStatus.SERVICE_UNAVAILABLE, "Too much is unread"),
    errors.TooManyConnections: Answer(
        "too-many-connections", HTTPStatus.SERVICE_UNAVAILABLE, "There are too many connections", closes=True
    ),
    errors.Draining: Answer("draining", HTTPStatus.SERVICE_UNAVAILABLE, "The service is shutting down"),
    errors.DeadlineUnreachable: Answer("deadline-unreachable", HTTPStatus.GATEWAY_TIMEOUT, "The answer would be late"),
    errors.DeadlinePassed: Answer("deadline-passed", HTTPStatus.GATEWAY_TIMEOUT, "The time allowed is over"),
    errors.RunLost: Answer("run-lost", HTTPStatus.INTERNAL_SERVER_ERROR, "The run was lost", retry=False),
    errors.Stuck: Answer("stuck", HTTPStatus.SERVICE_UNAVAILABLE, "Nothing moves"),
    errors.RunFailed: Answer(
        "run-failed", HTTPStatus.INTERNAL_SERVER_ERROR, "The model failed on a sequence", retry=False
    ),
}


# What goes with a status, whatever the error.
STATUS_HEADERS: dict[HTTPStatus, dict[str, str]] = {HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"}}


def describe(error: LengthwiseError, request_id: str, dialect: Dialect = NATIVE, line: int | None = None) -> Problem:
    """Describe a domain error as the table says."""
    answer = ANSWERS[type(error)]
    return Problem(
        type=_type_of(type(error)),
        title=answer.title,
        status=dialect.status_of(answer),
        detail=str(error),
        path=error.path,
        limit=error.limit,
        setting=error.setting,
        line=line,
        request_id=request_id,
    )


def answer_error(
    error: LengthwiseError, request_id: str, dialect: Dialect = NATIVE, overload_status: int = 503
) -> Response:
    """Answer a domain error as the table says, and one of overload as the setting does."""
    answer, problem = ANSWERS[type(error)], describe(error, request_id, dialect)
    headers = dict(STATUS_HEADERS.get(answer.status, {}))
    if answer.is_overload:
        problem.status = overload_status
    if answer.closes:
        headers["Connection"] = "close"
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
        headers["retry-after-ms"] = str(error.retry_after_ms)
    if answer.retry is not None:
        headers["x-should-retry"] = str(answer.retry).lower()
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
    return ANSWERS[kind].name


def document(*kinds: type[LengthwiseError], dialect: Dialect = NATIVE) -> dict[int | str, dict[str, Any]]:
    """Write the OpenAPI responses of a route that can fail in these ways."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        answer = ANSWERS[kind]
        for status in (dialect.status_of(answer), *([HTTPStatus.TOO_MANY_REQUESTS] if answer.is_overload else [])):
            content = {dialect.media_type: _content(dialect)}
            response = responses.setdefault(int(status), {"description": status.phrase, "content": content})
            example = Problem(
                type=_type_of(kind),
                title=answer.title,
                status=status,
                detail=kind.__doc__ or "",
                request_id="0d4f7c1b",
            )
            response["content"][dialect.media_type]["examples"][name_problem(kind)] = {
                "summary": answer.title,
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
