"""What can go wrong with a call, and the problem as the service told it."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Self

import httpx

QUOTED_CHARACTERS = 200  # of a body that is not the service's, such as a proxy's page


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the service did not answer (RFC 9457).

    Attributes:
        type: names the kind of problem; it does not change.
        title: what happened.
        status: the HTTP status.
        detail: what was found, what was expected, and which setting changes that.
        path: the place, as `sequences[3][17]`, counted in the caller's own sequences.
        limit: the bound that was met, in the unit its setting names.
        setting: the service's environment variable behind the bound.
        request_id: the id of the request in the service's log.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    path: str | None = None
    limit: int | None = None
    setting: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, response: httpx.Response, first: int) -> Self:
        """Read the problem out of an answer, whoever wrote it.

        Args:
            response: an answer that says the request failed.
            first: index, among the caller's sequences, of the first one in the request.
        """
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": response.reason_phrase,
            "detail": response.text[:QUOTED_CHARACTERS],
            "request_id": response.headers.get("x-request-id"),
        }
        if response.headers.get("content-type", "").startswith("application/problem+json"):
            with suppress(ValueError):  # it says it is JSON
                written = json.loads(response.content)
                found |= {field.name: written[field.name] for field in fields(cls) if field.name in written}
        for name in ("path", "detail"):
            if found.get(name):
                found[name] = _shift(found[name], first)
        return cls(**found | {"status": response.status_code})


def _shift(text: str, first: int) -> str:
    """Count the sequences a sentence names from the caller's first one on."""
    return re.sub(r"\b(sequences|texts)\[(\d+)\]", lambda found: f"{found[1]}[{int(found[2]) + first}]", text)


class LengthwiseError(Exception):
    """The base of every error a service or the way to it can cause."""


class Refused(LengthwiseError):
    """The service, or what stands before it, answered with an error that more tries did not or cannot change.

    Attributes:
        problem: the service's reason.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")


class Unreachable(LengthwiseError):
    """No answer came: the connection failed, as often as it was tried."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} did not answer: {reason}")


class NotUnderstood(LengthwiseError):
    """The answer is not one that this client reads: it may come from something else than a service."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} gave an answer that is none of a Lengthwise service this client knows")


class DeadlineExceeded(LengthwiseError, TimeoutError):
    """The call's time is over, or would be before an answer could come.

    Attributes:
        problem: the service's own problem, if the service ended the wait; else None.
    """

    def __init__(self, timeout: float, problem: Problem | None = None) -> None:
        self.problem = problem
        super().__init__(f"There was no answer within {timeout:g} s{f': {problem.detail}' if problem else ''}")


class ModelChanged(LengthwiseError):
    """The parts of one call were answered by different artifacts, whose embeddings cannot be compared."""

    def __init__(self, found: set[str]) -> None:
        self.found = sorted(found)
        super().__init__(f"One call was answered by different models, of the hashes {', '.join(self.found)}")
