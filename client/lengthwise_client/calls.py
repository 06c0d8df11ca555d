"""Describes calls without making them: generators of steps that a client performs, in threads or in asyncio.

Deadlines, retries and errors are here, once for both clients. A generator yields what it needs done, is sent the
outcome or thrown the failure, and returns what the call gives.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
import numpy as np

from lengthwise_client.errors import (
    DeadlineExceeded,
    LengthwiseError,
    ModelChanged,
    NotUnderstood,
    Problem,
    Refused,
    Unreachable,
)
from lengthwise_client.formats import Encoded, Format, Options, choose, join
from lengthwise_client.parts import Part, Sequences, Served, cut
from lengthwise_client.retries import wait_after_answer, wait_after_failure

T = TypeVar("T")

Choose: TypeAlias = Callable[[int | None, Options, object], Format]

LONGEST_TIMEOUT_MS = 999_999_999  # that the service reads
DEADLINE_PROBLEMS = "urn:lengthwise:problem:deadline-"
LARGE_BODY_BYTES = 2**16  # takes about a millisecond to write


@dataclass(frozen=True, slots=True)
class Request:
    """A request, whole but for its deadline.

    Attributes:
        first: index, among the caller's sequences, of the first one in it.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and return its answer, an `httpx.Response`, or raise an `httpx.TransportError`.

    Attributes:
        request: to send.
        headers: to send beside its own.
        timeout: seconds for each wait for the network; None for any time.
    """

    request: Request
    headers: Mapping[str, str]
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Let some seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Write:
    """Write the body of a large part, which takes a while."""

    part: Part


@dataclass(frozen=True, slots=True)
class Together:
    """Run calls, some at a time; return what they return, in order."""

    calls: "Iterator[Call[Any]]"


Step: TypeAlias = Send | Wait | Write | Together
Call: TypeAlias = Generator[Step, Any, T]
Seen: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must be over.

    Attributes:
        timeout: seconds it was allowed.
        at: on the clock of `Calls`.
    """

    timeout: float
    at: float


class Calls:
    """Makes calls, and keeps what `/info` told until it may have changed."""

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        model: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        choose_format: Choose | None = None,
    ) -> None:
        """Keep what all calls share.

        Args:
            url: the service's address, for messages.
            timeout: seconds that a call may take if it does not say; `inf` for any time.
            retries: the most tries of one request after its first.
            model: the name of the model for calls that give none; None for the service's default.
            clock: a function that returns seconds, counted from any moment.
            choose_format: chooses the format of a part, by what the model reads, what is asked and its first sequence.
        """
        self._url = url
        self._timeout = timeout
        self._retries = retries
        self._model = model
        self._clock = clock
        self._choose = choose if choose_format is None else choose_format
        self._served: dict[str | None, Served] = {}

    def info(self) -> Call[dict[str, Any]]:
        """Ask what is served."""
        response = yield from self._exchange(Request("GET", "/info"), self._allow(None))
        found: dict[str, Any] = _read(response, httpx.Response.json)
        return found

    def tokenizer(self, model: str | None) -> Call[str | None]:
        """Ask for a model's tokenizer."""
        name = self._model if model is None else model
        path = "/tokenizer" if name is None else f"/tokenizer?model={quote(name, safe='')}"
        response = yield from self._exchange(Request("GET", path), self._allow(None))
        return None if response.text == "null" else response.text

    def is_ready(self) -> Call[bool]:
        """Ask once whether requests may be sent."""
        timeout = None if self._timeout == inf else self._timeout
        try:
            response: httpx.Response = yield Send(Request("GET", "/health/ready"), {}, timeout)
        except httpx.TransportError:
            return False
        return response.is_success

    def encode(
        self, sequences: Sequences, options: Options, timeout: float | None, see: Seen | None = None
    ) -> Call[Encoded]:
        """Encode sequences, in as many requests as the service's limits ask for.

        Args:
            sequences: of the call.
            options: everything else in it.
            timeout: seconds that it may take; None for the client's.
            see: is told of each part, once it is encoded, how many sequences are in it.
        """
        deadline, options = self._allow(timeout), self._complete(options)
        served = yield from self._ask_served(options.model, deadline)
        parts = self._encode_parts(sequences, options, served, lambda: deadline)
        answers = yield Together(parts if see is None else (_tell(part, see) for part in parts))
        return join(answers) if answers else Encoded(np.empty((0, served.dim), dtype=np.float32))

    def stream(self, sequences: Sequences, options: Options, timeout: float | None) -> Call[Iterator[Call[Encoded]]]:
        """Return a call for each part, made as it is asked for, with a deadline of its own."""
        options = self._complete(options)
        served = yield from self._ask_served(options.model, self._allow(timeout))
        return self._encode_parts(sequences, options, served, lambda: self._allow(timeout))

    def _complete(self, options: Options) -> Options:
        """Name the client's model if the call names none."""
        return replace(options, model=self._model) if options.model is None else options

    def _allow(self, timeout: float | None) -> Deadline:
        timeout = self._timeout if timeout is None else timeout
        return Deadline(timeout, self._clock() + timeout)

    def _ask_served(self, model: str | None, deadline: Deadline) -> Call[Served]:
        """Return what a request to a model depends on; ask the service if it is not known."""
        if (served := self._served.get(model)) is None:
            response = yield from self._exchange(Request("GET", "/info"), deadline)
            served = self._served[model] = _read(response, lambda response: Served.read(response.json(), model))
        return served

    def _encode_parts(
        self, sequences: Sequences, options: Options, served: Served, allow: Callable[[], Deadline]
    ) -> Iterator[Call[Encoded]]:
        models: set[str] = set()
        for part in cut(sequences, served, partial(self._choose, served.features, options)):
            yield self._encode_part(part, allow(), models, gives_rows="embedding" in options.outputs)

    def _encode_part(self, part: Part, deadline: Deadline, models: set[str], *, gives_rows: bool) -> Call[Encoded]:
        """Encode one part.

        Args:
            part: to encode.
            deadline: of the call.
            models: hashes of those that answered the call's other parts; this one's is added.
            gives_rows: whether embeddings are asked for, one for each sequence.
        """
        form = part.format
        try:
            content: bytes = (yield Write(part)) if part.size > LARGE_BODY_BYTES else part.write()
            request = Request("POST", form.path, form.headers, content, part.first)
            response = yield from self._exchange(request, deadline)
        except (Refused, TypeError, ValueError):
            self._served.clear()  # what is served may have changed
            raise
        models.add(response.headers.get("x-model-sha", ""))
        if len(models) > 1:
            raise ModelChanged(models)
        encoded = _read(response, form.read)
        if gives_rows and len(encoded.embeddings) != len(part.sequences):
            raise NotUnderstood(str(response.url))
        return encoded

    def _exchange(self, request: Request, deadline: Deadline) -> Call[httpx.Response]:
        """Send a request until it succeeds, cannot, or has had its tries or its time."""
        tries = 0
        while True:
            left = deadline.at - self._clock()
            if left <= 0:
                raise DeadlineExceeded(deadline.timeout)
            tries += 1
            try:
                response: httpx.Response = yield _send_within(request, left)
            except httpx.TimeoutException as error:
                raise DeadlineExceeded(deadline.timeout) from error
            except httpx.DecodingError as error:
                raise NotUnderstood(f"{self._url}{request.path}") from error
            except httpx.TransportError as error:
                failure: LengthwiseError = Unreachable(self._url, str(error) or type(error).__name__)
                is_passing = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
                wait = wait_after_failure(tries, self._retries) if is_passing else None
            else:
                if response.is_success:
                    return response
                problem = Problem.read(response, request.first)
                if problem.type.startswith(DEADLINE_PROBLEMS) and left < inf:
                    raise DeadlineExceeded(deadline.timeout, problem)
                failure = Refused(problem)
                wait = wait_after_answer(tries, self._retries, response)
            if wait is None or self._clock() + wait >= deadline.at:
                raise failure
            yield Wait(wait)


def bring(key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Add the header that brings a key.

    Raises:
        ValueError: there is such a header already.
    """
    sent = dict(headers or {})
    if key is None:
        return sent
    if "authorization" in map(str.lower, sent):
        raise ValueError("key and the header Authorization say the same thing: give one of them")
    return {**sent, "Authorization": f"Bearer {key}"}


def _tell(part: Call[Encoded], see: Seen) -> Call[Encoded]:
    """Encode a part, and tell how many sequences were in it."""
    answer = yield from part
    see(len(answer.embeddings))
    return answer


def _send_within(request: Request, seconds: float) -> Send:
    """Tell the service, too, how long its answer is of use."""
    if seconds == inf:
        return Send(request, {}, None)
    milliseconds = min(max(1, int(1000 * seconds)), LONGEST_TIMEOUT_MS)
    return Send(request, {"X-Request-Timeout-Ms": str(milliseconds)}, seconds)


def _read(response: httpx.Response, read: Callable[[httpx.Response], T]) -> T:
    try:
        return read(response)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise NotUnderstood(str(response.url)) from error
