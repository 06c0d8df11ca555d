"""A shard encoded by a running service, through the client: the rows and bits that the same model gives here."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.pace import MOST, Pace
from service.encoder.sequences import Features, InputSpec, Output, State, Steps, Tokens
from service.encoder.tokenizer import read_tokenizer
from service.errors import StartupError
from service.settings import Limits

try:
    import lengthwise_client as client
except ImportError:  # it lies beside, as in a checkout
    sys.path.append(str(Path(__file__).parents[1] / "client"))
    import lengthwise_client as client

REQUEST_STEPS, REQUEST_SEQUENCES = 8192, 256
TIMEOUT_SECONDS, RETRIES = 600.0, 20  # a service that is away for a minute ends nothing
REFUSALS = {429, 503}


class Watched(httpx.BaseTransport):
    """Connections that tell a pace how the service copes, and refuse the answers of another model.

    Attributes:
        sha256: of the artifact that must answer, once it is known.
    """

    def __init__(self, pace: Pace, inner: httpx.BaseTransport | None = None) -> None:
        self.sha256: str | None = None
        self._pace = pace
        self._inner = inner or httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=MOST))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        began = self._pace.clock()
        response = self._inner.handle_request(request)
        if response.status_code in REFUSALS:
            self._pace.refuse(began)
        elif request.method == "POST":
            self._pace.answer(self._pace.clock() - began, int(request.headers.get("content-length", 0)))
        found = response.headers.get("x-model-sha", self.sha256)
        if self.sha256 not in (None, found):
            raise BulkError(f"the service changed its model from {self.sha256} to {found}")
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class RemoteEncoder:
    """A model of a running service; its attributes are those of `Encoder`."""

    def __init__(
        self, url: str, model: str | None, key: str | None, limits: Limits, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Ask a service what it serves.

        Args:
            url: its address.
            model: the model's name; None for its default.
            key: the key that it asks for.
            limits: what one sequence may be; it must be no more than the service takes.
            transport: what sends requests in place of httpx's own.

        Raises:
            BulkError: it cannot be reached, does not serve such a model, or takes less than the limits.
        """
        self._pace = Pace()
        self._watched = Watched(self._pace, transport)
        self._client = client.Client(
            url, model=model, key=key, timeout=TIMEOUT_SECONDS, retries=RETRIES, transport=self._watched
        )
        self._pool = ThreadPoolExecutor(MOST, "asker")
        try:
            served, settings = find_model(self._client.info(), model, limits, url)
            self._request_steps = min(REQUEST_STEPS, settings["max_request_steps"])
            self._sends_empty = limits.empty_allowed
            self.name, self.file, self.sha256 = served["name"], url, served["sha256"]
            self.outputs: tuple[Output, ...] = tuple(name for name in served["outputs"] if name != "prediction")
            self.dim = served["dim"]
            kind = Tokens(served["vocabulary"]) if served["features"] is None else Features(served["features"])
            self.spec = InputSpec(kind)
            self.columns = tuple((served.get("manifest") or {}).get("input", {}).get("columns", ()))
            if tokenizer := self._client.tokenizer(model) if "texts" in served["reads"] else None:
                self.spec = InputSpec(kind, read_tokenizer(tokenizer, url))  # ids are sent, checked and cut as here
            self._watched.sha256 = self.sha256
            one = np.ones((1, *kind.shape), kind.dtype)
            self._shapes = self._client.encode_outputs([one], self.outputs)
        except (BulkError, StartupError, client.LengthwiseError) as error:
            self.close()
            raise BulkError(str(error)) from error

    def close(self) -> None:
        """End the threads, once what they asked is answered, and the connections."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def predict(self, _lengths: npt.NDArray[np.int64]) -> None:
        """Return None: nobody knows what else the service has to do."""

    def begin(self, sequences: list[Steps], outputs: tuple[Output, ...] = ("embedding",)) -> Callable[[], Encoded]:
        """Begin to have n sequences encoded, as `Encoder.begin` does."""
        count, given = len(sequences), self._shapes
        lengths = np.fromiter(map(len, sequences), np.int64, count)
        embeddings = np.zeros((count, self.dim), np.float32)
        steps: list[npt.NDArray[np.float32]] = []
        state: State = {}
        width = given.steps[0].shape[1] if "steps" in outputs else 0
        if "steps" in outputs:
            steps = [np.empty((0, width), np.float32)] * count
        if "state" in outputs:
            state = {name: np.zeros((count, *part.shape[1:]), np.float32) for name, part in given.state.items()}

        def ask(places: list[int]) -> int:
            with self._pace.hold():
                answer = self._client.encode_outputs([sequences[place] for place in places], outputs)
            embeddings[places] = answer.embeddings
            for place, found in zip(places, answer.steps, strict=False):
                steps[place] = found
            for name, part in answer.state.items():
                state[name][places] = part
            return sum(len(sequences[place]) for place in places)

        asked: list[Future[int]] = [self._pool.submit(ask, places) for places in self._cut(sequences)]

        def wait() -> Encoded:
            try:
                total = sum(one.result() for one in asked)
            except client.LengthwiseError as error:
                raise BulkError(str(error)) from error
            return Encoded(embeddings, lengths, steps, state, total, width)

        return wait

    def _cut(self, sequences: list[Steps]) -> list[list[int]]:
        """Cut sequences into requests of neighbours by length, as the service likes them."""
        parts: list[list[int]] = []
        room = 0
        for place in sorted(range(len(sequences)), key=lambda place: -len(sequences[place])):
            length = len(sequences[place])
            if not length and not self._sends_empty:
                break  # a row with an error
            if not parts or max(1, length) > room or len(parts[-1]) == REQUEST_SEQUENCES:
                parts.append([])
                room = self._request_steps
            parts[-1].append(place)
            room -= max(1, length)
        return parts


def find_model(
    info: dict[str, Any], model: str | None, limits: Limits, url: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find a model, and the settings of its service, in `/info`.

    Raises:
        BulkError: it is not served, or the service takes less than the limits.
    """
    name, settings = model or info["default_model"], info["settings"]
    found = [one for one in info["models"] if name in one["names"]]
    if not found:
        raise BulkError(f"{url} has no model {name!r}: --model names one of those that its /info lists")
    if limits.max_sequence_steps > settings["max_sequence_steps"]:
        raise BulkError(f"{url} takes {settings['max_sequence_steps']} steps, and --max-sequence-steps is more")
    if limits.empty_allowed and settings["empty_sequences"] != "zero":
        raise BulkError(f"{url} refuses empty sequences, and so must --empty-sequences")
    return found[0], settings
