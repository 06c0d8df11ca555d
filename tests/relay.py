"""Carries a client's requests into an app, and keeps them."""

import asyncio
from collections import deque

import httpx
from starlette.testclient import TestClient

from lengthwise_client import AsyncClient, Client


class Relay:
    """Stands between a client and an app in this process, where the network would be.

    Attributes:
        sent: every request, in order.
        instead: what becomes of the next requests to `/encode`, while there is something: an answer, or no answer.
        slept: the seconds each wait between tries was to last; none does.
    """

    def __init__(self, app: TestClient) -> None:
        self.app = app
        self.sent: list[httpx.Request] = []
        self.instead: deque[httpx.Response | httpx.TransportError] = deque()
        self.slept: list[float] = []

    @property
    def encoded(self) -> list[httpx.Request]:
        """The requests to `/encode`."""
        return [request for request in self.sent if request.url.path == "/encode"]

    def carry(self, request: httpx.Request) -> httpx.Response:
        """Return the app's answer, or what is to happen instead."""
        self.sent.append(request)
        if self.instead and request.url.path == "/encode":
            outcome = self.instead.popleft()
            if isinstance(outcome, httpx.TransportError):
                raise outcome
            return outcome
        path = request.url.raw_path.decode()
        answer = self.app.request(request.method, path, content=request.content, headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=answer.headers.multi_items(), content=answer.content)

    def connect(self, *, timeout: float = 60.0, retries: int = 4) -> Client:
        """Return a client of the app."""
        transport = httpx.MockTransport(self.carry)
        return Client("http://app", timeout=timeout, retries=retries, transport=transport, sleep=self.slept.append)

    def connect_async(self) -> AsyncClient:
        """Return a client of the app for asyncio."""

        async def carry(request: httpx.Request) -> httpx.Response:
            return await asyncio.to_thread(self.carry, request)

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        return AsyncClient("http://app", transport=httpx.MockTransport(carry), sleep=sleep)
