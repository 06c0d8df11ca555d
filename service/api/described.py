"""What the OpenAPI document says of every route that encodes, whatever its format."""

from typing import Any

from service import errors

RESPONSE_HEADERS: dict[str, Any] = {
    "X-Request-Id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}},
    "X-Model-Sha": {"description": "SHA-256 of the artifact that ran.", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds in decode, queue, run, encode.", "schema": {"type": "string"}},
}

EXPECT_HEADER: dict[str, Any] = {
    "name": "X-Expect-Model",
    "in": "header",
    "description": "SHA-256 of the only artifact whose answer is of use.",
    "schema": {"type": "string"},
}

TIMEOUT_HEADER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "Milliseconds from the request's arrival after which its answer is of no use.",
    "schema": {"type": "integer", "minimum": 1},
}

# What it may answer.
FAILURES: tuple[type[errors.LengthwiseError], ...] = (
    errors.InvalidHost,
    errors.MalformedJson,
    errors.MalformedBody,
    errors.InvalidField,
    errors.NotANumber,
    errors.NonFiniteValue,
    errors.FeatureMismatch,
    errors.UnknownToken,
    errors.NotOffered,
    errors.EmptyRequest,
    errors.EmptySequence,
    errors.InvalidLengths,
    errors.UnknownModel,
    errors.UnexpectedModel,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.SequenceTooLong,
    errors.RequestTooLong,
    errors.AnswerTooLarge,
    errors.TextTooLong,
    errors.TextsTooLong,
    errors.UnsupportedMediaType,
    errors.RateExceeded,
    errors.QueueFull,
    errors.AnswersUnread,
    errors.TooManyConnections,
    errors.Draining,
    errors.DeadlineUnreachable,
    errors.DeadlinePassed,
    errors.RunFailed,
    errors.RunLost,
    errors.Stuck,
)
