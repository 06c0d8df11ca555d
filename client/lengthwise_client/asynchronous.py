"""The client in asyncio: it performs the steps of a call, and decides nothing."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Self, TypeVar

import httpx

from lengthwise_client.calls import Call, Calls, Send, Step, Together, Wait, Write, bring
from lengthwise_client.client import CONNECTIONS, TIMEOUT_SECONDS, load_rpc
from lengthwise_client.formats import Array, Encoded, Options, Output
from lengthwise_client.parts import IN_FLIGHT, Sequences
from lengthwise_client.progress import show_progress
from lengthwise_client.retries import RETRIES

T = TypeVar("T")


class AsyncClient:
    """Asks a service for embeddings, for asyncio; its methods are those of `Client`.

    ```python
    async with AsyncClient("http://localhost:8000") as client:
        embeddings = await client.encode([np.random.rand(19, 12), np.random.rand(7, 12)])  # (2, D) float32
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
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Prepare connections; see `Client`."""
        rpc = load_rpc(url)
        if rpc and transport is None:
            transport = rpc.AsyncRpcTransport(url)
        self._calls = Calls(url, timeout, retries, model, choose_format=rpc and rpc.choose)
        self._http = httpx.AsyncClient(
            base_url=url, headers=bring(key, headers), transport=transport, limits=CONNECTIONS
        )
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> dict[str, Any]:
        """Return what `/info` says; see `Client.info`."""
        return await self._run(self._calls.info())

    async def tokenizer(self, model: str | None = None) -> str | None:
        """Return a model's tokenizer, None if it reads no texts; see `Client.tokenizer`."""
        return await self._run(self._calls.tokenizer(model))

    async def is_ready(self) -> bool:
        """Say whether the service takes requests now; see `Client.is_ready`."""
        return await self._run(self._calls.is_ready())

    async def encode(
        self,
        sequences: Sequences,
        *,
        normalize: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        progress: bool = False,
    ) -> Array:
        """Encode sequences of any length, and any number of them; see `Client.encode`."""
        options = Options(normalize=normalize, model=model)
        with show_progress(sequences, shown=progress) as see:
            return (await self._run(self._calls.encode(sequences, options, timeout, see))).embeddings

    async def encode_outputs(
        self,
        sequences: Sequences,
        outputs: Collection[Output],
        *,
        normalize: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Encoded:
        """Encode sequences, and return what is asked for; see `Client.encode_outputs`."""
        options = Options(tuple(outputs), normalize, model)
        return await self._run(self._calls.encode(sequences, options, timeout))

    async def encode_stream(
        self, sequences: Sequences, *, normalize: bool = False, model: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[Array]:
        """Encode sequences as they come; see `Client.encode_stream`."""
        options = Options(normalize=normalize, model=model)
        async for encoded in self._run_each(await self._run(self._calls.stream(sequences, options, timeout))):
            for embedding in encoded.embeddings:
                yield embedding

    async def _run(self, call: Call[T]) -> T:
        """Perform a call's steps until it returns."""
        try:
            step = next(call)
            while True:
                try:
                    outcome = await self._perform(step)
                except Exception as error:  # noqa: BLE001 - what it means is the call's to say
                    step = call.throw(error)
                else:
                    step = call.send(outcome)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _perform(self, step: Step) -> Any:
        match step:
            case Send(request, headers, timeout):
                headers = {**request.headers, **headers}
                return await self._http.request(
                    request.method, request.path, content=request.content, headers=headers, timeout=timeout
                )
            case Wait(seconds):
                return await self._sleep(seconds)
            case Write(part):
                return await asyncio.to_thread(part.write)
            case Together(calls):
                return [value async for value in self._run_each(calls)]

    async def _run_each(self, calls: Iterator[Call[T]]) -> AsyncIterator[T]:
        """Run calls, some at a time; yield what they return, in order."""
        running: deque[asyncio.Task[T]] = deque()
        try:
            for call in calls:
                if len(running) == IN_FLIGHT:
                    yield await running[0]
                    running.popleft()
                running.append(asyncio.create_task(self._run(call)))
            while running:
                yield await running[0]
                running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
