"""Counts the bytecodes of Python that one request takes, function by function."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from bench.load.workloads import JSON, MODELS, draw_sequences
from bench.speed.counted import FEW, WARM, choose_lengths
from bench.speed.path import live, scope_of
from service.app import create_app
from service.settings import Settings

ROOMS = 2  # of `service.api.encoding`, the first two parts are its package


async def count_bytecodes(model: Path, sequences: int = 1) -> "Counter[tuple[str, str]]":
    """Serve a model in this process, warm up, and count the bytecodes of a request by package and function.

    It is a mean over as many requests as telemetry takes together.
    """
    found: Counter[tuple[str, str]] = Counter()

    def trace(frame: FrameType, event: str, _found: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            found[_name(frame)] += 1
        return trace

    drawn = draw_sequences(choose_lengths(sequences), MODELS[model.stem].features, seed=0)
    body = JSON.write(drawn).partition(b"\r\n\r\n")[2]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        pass

    app = create_app(Settings(model=model, log_level="warning", processes=1))
    async with live(app):
        for _ in range(WARM):
            await app(scope_of(body), receive, send)
        calls = [app(scope_of(body), receive, send) for _ in range(FEW)]
        before = sys.gettrace()  # a debugger's, or coverage's
        sys._getframe().f_trace_opcodes = True  # noqa: SLF001 - Python 3.12 looks for one when the trace is set
        sys.settrace(trace)
        try:
            for call in calls:
                await call
        finally:
            sys.settrace(before)
    means = {name: round(bytecodes / FEW) for name, bytecodes in found.items() if name[0] != "bench"}
    return Counter({name: bytecodes for name, bytecodes in means.items() if bytecodes})


def _name(frame: FrameType) -> tuple[str, str]:
    """Return the package and the name of the function that a frame runs."""
    parts = str(frame.f_globals.get("__name__", "?")).split(".")
    package = ".".join(parts[:ROOMS]) if parts[0] == "service" else parts[0]
    inside = ".".join(parts[ROOMS:]) if parts[0] == "service" else ".".join(parts[1:])
    return package, f"{inside}.{frame.f_code.co_qualname}" if inside else frame.f_code.co_qualname
