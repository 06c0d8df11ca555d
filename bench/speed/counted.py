"""What `ledger` runs under callgrind: the service, or the layers of one request in this process.

    python -m bench.speed.counted service --model FILE ...
    python -m bench.speed.counted layers FILE SEQUENCES

Time is kept out of the counts, so that two of the same code are alike however slow callgrind is. Each look at the clock
is a microsecond after the one before, so that a run is always short. Telemetry is settled once in 64 requests, never
because a while has passed, and nothing is measured or given back beside the requests.
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

LENGTH = 33  # steps of the sequence, the median of the benchmark's lengths
WARM, FEW, MANY = 64, 64, 192  # requests; telemetry is settled once in 64
LONG_SECONDS = 3600.0  # longer than all is counted


def choose_lengths(number: int) -> list[int]:
    """Return the lengths of so many sequences, each another, around that of one."""
    return [LENGTH + place - number // 2 for place in range(number)]


def keep_time_out() -> None:
    """Let `time.perf_counter` tell of a microsecond more each time, and nothing begin because a while has passed."""
    time.perf_counter = itertools.count(1000.0, 1e-6).__next__
    from service import upkeep  # noqa: PLC0415 - after the clock is set
    from service.batching import refining  # noqa: PLC0415
    from service.observing import counts  # noqa: PLC0415

    counts.NOTED_SECONDS = counts.TICK_SECONDS = refining.IDLE_SECONDS = LONG_SECONDS
    upkeep.IDLE_SECONDS = LONG_SECONDS  # type: ignore[attr-defined]  # it has it from `refining`


def tell_callgrind(pid: int, *words: str) -> None:
    """Have the callgrind that runs a process do something.

    Raises:
        RuntimeError: it was not heard; carries what `vgdb` wrote.
    """
    vgdb = shutil.which("vgdb") or "vgdb"  # comes with valgrind
    ran = subprocess.run([vgdb, f"--pid={pid}", *words], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"vgdb {' '.join(words)} ended with {ran.returncode}: {ran.stderr.strip()}")


async def count(name: str, call: Callable[[], Awaitable[object] | object]) -> None:
    """Have callgrind count few and then many calls, so that their difference is that of calls alone."""
    for number in (WARM, FEW, MANY):
        tell_callgrind(os.getpid(), "zero")
        for _ in range(number):
            found = call()
            if isinstance(found, Awaitable):
                await found
        tell_callgrind(os.getpid(), "dump", f"{name}:{number}")


async def count_layers(model: Path, number: int) -> None:
    """Serve a model in this process, and count what the layers of a request take."""
    from bench.load.workloads import JSON, draw_sequences  # noqa: PLC0415 - after the clock is set
    from bench.speed.path import live, scope_of  # noqa: PLC0415
    from service.app import create_app  # noqa: PLC0415
    from service.codecs.json import ragged  # noqa: PLC0415
    from service.codecs.json.plain import Bounds  # noqa: PLC0415
    from service.codecs.options import AnswerOptions  # noqa: PLC0415
    from service.costs.memory import spare_collector  # noqa: PLC0415
    from service.encoder.sequences import Answer, InputSpec, join, pad_batch  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    app = create_app(Settings(model=model, log_level="warning", processes=1))
    async with live(app):
        service = app.state.service
        served = next(iter(service.models))
        kind = served.session.kind
        lengths = choose_lengths(number)
        drawn = draw_sequences(lengths, kind.features, seed=0)
        body = JSON.write(drawn).partition(b"\r\n\r\n")[2]
        spec, sequences, batch = InputSpec(kind), join(drawn, kind), pad_batch(drawn)
        padded = number * batch.steps.shape[1]
        answer = Answer(served.session.run(batch), lengths=lengths, model=served.name, padded_steps=padded)
        scope, options, bounds, limits = scope_of(body), AnswerOptions(), Bounds.of([spec]), Settings().limits
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        spare_collector()  # as the service does once it is loaded
        tell_callgrind(os.getpid(), "instrumentation", "on")
        await count("run", lambda: served.session.run(batch))
        await count("engine", lambda: service.engine.encode(served, sequences))
        await count("decode", lambda: ragged.parse(body, None, limits, bounds)[1](spec))
        await count("write", lambda: ragged.write(answer, options))
        await count("application", lambda: app(dict(scope), receive, send))
        if {*statuses} != {200}:
            sys.exit(f"The requests were answered {sorted({*statuses})}")


def run() -> None:
    """Run what the first argument names."""
    keep_time_out()
    if sys.argv[1] == "service":
        from service.__main__ import main as serve  # noqa: PLC0415 - after the clock is set

        serve(sys.argv[2:])
    else:
        import uvloop  # noqa: PLC0415

        uvloop.run(count_layers(Path(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    run()
