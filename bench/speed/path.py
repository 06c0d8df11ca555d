"""Trace one plain JSON `POST /encode` of the shipped encoder: which modules and which types of ours take part.

    python -m bench path

The application is called in this process, as a server calls it, and every call of a function of `service/` is seen. A
module takes part if one of its functions is called. A type takes part if an instance is made for the request and is
handed to a function or returned by one. The last line is a JSON document.
"""

import argparse
import asyncio
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

from starlette.types import ASGIApp, Message

import service
from service.app import create_app
from service.observing.counts import NOTED_SECONDS
from service.settings import Settings

PACKAGE = Path(service.__file__).parent
BODY = json.dumps({"sequences": [[[0.25] * 12, [0.5] * 12, [0.75] * 12]]}).encode()


def scope_of(body: bytes) -> dict[str, Any]:
    """Return the ASGI scope of a plain JSON `POST /encode` with a body."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


@asynccontextmanager
async def live(app: ASGIApp) -> AsyncIterator[None]:
    """Start an application and end it, as a server does."""
    asked: asyncio.Queue[Message] = asyncio.Queue()
    told: asyncio.Queue[Message] = asyncio.Queue()
    living = asyncio.create_task(cast("Coroutine[Any, Any, None]", app({"type": "lifespan"}, asked.get, told.put)))
    for event in ("startup", "shutdown"):
        await asked.put({"type": f"lifespan.{event}"})
        answer = await told.get()
        if answer["type"] != f"lifespan.{event}.complete":
            sys.exit(f"The application did not come through its {event}: {answer.get('message')}")
        if event == "startup":
            yield
    await living


@dataclass(slots=True)
class Trace:
    """What takes part in a request.

    Attributes:
        is_on: whether a request is under way.
        modules: names of modules, in the order they are met.
        types: names of types, likewise in order.
        known: ids of the objects that were there before.
        kept: these objects, and then the instances that were met, so that no id comes twice.
    """

    is_on: bool = False
    modules: dict[str, None] = field(default_factory=dict)
    types: dict[str, None] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    kept: list[object] = field(default_factory=list)

    def see(self, frame: FrameType, event: str, found: Any) -> None:
        """Note a call or a return; the interpreter calls this."""
        if not self.is_on or event not in ("call", "return"):
            return
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            self.modules[frame.f_globals["__name__"]] = None
            for one in (found,) if event == "return" else frame.f_locals.values():
                self._note(one)

    def _note(self, one: object) -> None:
        kind = type(one)
        if kind.__module__.partition(".")[0] == "service" and id(one) not in self.known:
            self.kept.append(one)
            self.types[f"{kind.__module__}.{kind.__qualname__}"] = None


async def trace_request() -> Trace:
    """Serve the shipped encoder, warm up with some requests, and trace one more."""
    trace = Trace()
    threading.setprofile(trace.see)
    app = create_app(Settings(log_requests=False))
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    async with live(app):
        for _ in range(20):
            await app(scope_of(BODY), receive, send)
        await asyncio.sleep(2 * NOTED_SECONDS)  # what is counted of them later, together, is not the next request's
        gc.collect()
        trace.kept = gc.get_objects()
        trace.known = {id(one) for one in trace.kept}
        messages.clear()
        sys.setprofile(trace.see)
        trace.is_on = True
        await app(scope_of(BODY), receive, send)
        trace.is_on = False
        sys.setprofile(None)
    threading.setprofile(None)
    if messages[0]["status"] != 200:
        sys.exit(f"The request was refused: {messages[-1]['body'].decode()}")
    return trace


def main() -> None:
    """Print what took part."""
    argparse.ArgumentParser(prog="python -m bench path", description=__doc__).parse_args()
    trace = asyncio.run(trace_request())
    for title, names in (("modules", trace.modules), ("types", trace.types)):
        print(f"{len(names)} {title}:", *names, sep="\n  ")
    print(json.dumps({"modules": len(trace.modules), "types": len(trace.types)}))
