"""The path of one plain request, as `python -m bench path` traces it."""

import asyncio

from bench.speed.path import trace_request


def test_a_plain_request_passes_few_modules_and_types() -> None:
    """One plain JSON `POST /encode` takes at most sixteen modules of the service and nine types between its borders."""
    trace = asyncio.run(trace_request())
    assert len(trace.modules) <= 16, [*trace.modules]
    assert len(trace.types) <= 9, [*trace.types]
