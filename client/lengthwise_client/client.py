"""The client in threads: it performs the steps of a call, and decides nothing."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import chain, islice
from threading import Event
from typing import Any, Self, TypeVar

import httpx

from lengthwise_client.calls import Call, Calls, Send, Step, Together, Wait, Write, bring
from lengthwise_client.formats import Array, Encoded, Options, Output
from lengthwise_client.parts import IN_FLIGHT, Sequences
from lengthwise_client.progress import show_progress
from lengthwise_client.retries import RETRIES

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
# Idle connections are dropped before the service drops them, after 65 s, so that none is found dead.
CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)


def load_rpc(url: str) -> Any:
    """Return the module that speaks gRPC, if that is what an address asks for; else None.

    Raises:
        ValueError: the address says no protocol.
    """
    if "://" not in url:
        raise ValueError(f"{url!r} says no protocol: expected http://, https://, grpc:// or grpcs:// before the host")
    return import_module("lengthwise_client.rpc") if url.startswith(("grpc://", "grpcs://")) else None


class Client:
    """Asks a service for embeddings; safe to share between threads.

    ```python
    with Client("http://localhost:8000") as client:
        embeddings = client.encode([np.random.rand(19, 12), np.random.rand(7, 12)])  # (2, D) float32
    ```
    """

    def __init__(  # noqa: PLR0913 - all but the first are given by name
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Prepare connections; the first call opens one.

        Args:
            url: the service's address; `grpc://HOST:PORT`, or `grpcs://` with TLS, for its port of gRPC, which needs
                the extra `grpc`.
            model: the name of the model for calls that give none; None for the service's default.
            key: the key that the service asks for, sent as `Authorization: Bearer KEY`.
            timeout: seconds that a call may take if it does not say; `inf` for any time.
            retries: how often a request that failed in passing is sent again.
            headers: headers of every request.
            transport: the transport that httpx uses in place of its own connections.
            sleep: lets seconds pass between tries.

        Raises:
            ValueError: both a key and the header `Authorization` are given, or the address says no protocol.
            ImportError: gRPC is asked for, and the extra `grpc` is not installed.
        """
        rpc = load_rpc(url)
        if rpc and transport is None:
            transport = rpc.RpcTransport(url)
        self._calls = Calls(url, timeout, retries, model, choose_format=rpc and rpc.choose)
        self._http = httpx.Client(base_url=url, headers=bring(key, headers), transport=transport, limits=CONNECTIONS)
        self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="lengthwise-client")
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Return the document of `/info`: the model and its proof, every limit and setting in force.

        Raises:
            LengthwiseError: as `encode` does.
        """
        return self._run(self._calls.info())

    def tokenizer(self, model: str | None = None) -> str | None:
        """Return a model's tokenizer, for `Tokenizer.from_str` of the library `tokenizers`; its ids may be sent.

        Over gRPC nothing tells it.

        Args:
            model: its name; None for the client's.

        Returns:
            Its JSON; None if the model reads no texts.

        Raises:
            LengthwiseError: as `encode` does.
        """
        return self._run(self._calls.tokenizer(model))

    def is_ready(self) -> bool:
        """Say whether the service takes requests now; a service that cannot be reached does not."""
        return self._run(self._calls.is_ready())

    def encode(
        self,
        sequences: Sequences,
        *,
        normalize: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        progress: bool = False,
    ) -> Array:
        """Encode sequences of any length, and any number of them.

        A call that is over the service's limits is sent in parts, some at a time. A request that failed for a passing
        reason is sent again, not before the service says; one that cannot succeed is not.

        Args:
            sequences: n arrays or lists: `(t_i, F)` numbers, `(t_i,)` token ids, or texts.
            normalize: scale each embedding to L2 norm 1.
            model: the name of the model that must answer; None for the client's.
            timeout: seconds that the whole call may take; None for the client's. An answer that has begun to come in
                time is read to its end.
            progress: show on stderr how many sequences are encoded, by tqdm if it is installed.

        Returns:
            Embeddings `(n, D)`, row i for sequence i, with every bit the model gave.

        Raises:
            Refused: the service said no; carries its problem, with indices into `sequences`.
            DeadlineExceeded: no answer came in time.
            Unreachable: the service cannot be reached.
            ModelChanged: the parts were answered by different models.
            NotUnderstood: the answer is not one of a service that this client knows.
            TypeError: `sequences[i]` is not of the kind the model reads.
            ValueError: `sequences[i]` is not of the shape the model reads.
        """
        options = Options(normalize=normalize, model=model)
        with show_progress(sequences, shown=progress) as see:
            return self._run(self._calls.encode(sequences, options, timeout, see)).embeddings

    def encode_outputs(
        self,
        sequences: Sequences,
        outputs: Collection[Output],
        *,
        normalize: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Encoded:
        """Encode sequences as `encode` does, and return what is asked for of what `/info` says the model gives."""
        options = Options(tuple(outputs), normalize, model)
        return self._run(self._calls.encode(sequences, options, timeout))

    def encode_stream(
        self, sequences: Sequences, *, normalize: bool = False, model: str | None = None, timeout: float | None = None
    ) -> Iterator[Array]:
        """Encode sequences as they come, without end if need be, a few parts in memory at a time.

        Args:
            sequences: read as their embeddings are taken.
            normalize: scale each embedding to L2 norm 1.
            model: the name of the model that must answer; None for the client's.
            timeout: seconds that each part may take; None for the client's.

        Yields:
            Embeddings `(D,)`, in the order of their sequences.

        Raises:
            LengthwiseError: as `encode` does, and its other errors too.
        """
        options = Options(normalize=normalize, model=model)
        for encoded in self._run_each(self._run(self._calls.stream(sequences, options, timeout))):
            yield from encoded.embeddings

    def _run(self, call: Call[T], dropped: Event | None = None) -> T:
        """Perform a call's steps until it returns, or is dropped."""
        try:
            step = next(call)
            while dropped is None or not dropped.is_set():
                try:
                    outcome = self._perform(step)
                except Exception as error:  # noqa: BLE001 - what it means is the call's to say
                    step = call.throw(error)
                else:
                    step = call.send(outcome)
        except StopIteration as end:
            value: T = end.value
            return value
        raise RuntimeError("another part of the call failed")

    def _perform(self, step: Step) -> Any:
        match step:
            case Send(request, headers, timeout):
                headers = {**request.headers, **headers}
                return self._http.request(
                    request.method, request.path, content=request.content, headers=headers, timeout=timeout
                )
            case Wait(seconds):
                return self._sleep(seconds)
            case Write(part):
                return part.write()
            case Together(calls):
                return list(self._run_each(calls))

    def _run_each(self, calls: Iterator[Call[T]]) -> Iterator[T]:
        """Run calls, some at a time; yield what they return, in order."""
        two = list(islice(calls, 2))
        if len(two) < 2:
            yield from map(self._run, two)  # one alone needs no thread
            return
        dropped = Event()
        running: deque[Future[T]] = deque()
        try:
            for call in chain(two, calls):
                if len(running) == IN_FLIGHT:
                    yield running.popleft().result()
                running.append(self._threads.submit(self._run, call, dropped))
            while running:
                yield running.popleft().result()
        finally:
            dropped.set()
            for future in running:
                future.cancel()
