"""Serves an app over a real socket from a thread of the test's own process, so that a test can reach into it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from service.server.transport import WatchingProtocol


class _Server(uvicorn.Server):
    """Says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepts = threading.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepts.set()


@contextmanager
def listen(
    app: ASGIApp, http: Callable[..., asyncio.Protocol] = WatchingProtocol, keep_alive_seconds: int = 5
) -> Iterator[str]:
    """Serve an app on a free port, by the service's own protocol or another.

    Yields:
        Its host and port, as `127.0.0.1:8000`.
    """
    config = uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]
        port=0,
        log_level="error",
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    bound = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        assert server.accepts.wait(60)
        yield f"127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
