"""`python -m bench gpu`: whether an encoder on CUDA is right, and how fast it is, with torch's cuDNN beside it.

First every kind of encoder is compared: CUDA with the CPU, a sequence alone with the same one in a batch, and the
golden vectors. Then single runs by shape, copies included, are timed beside torch's LSTM on the same GPU, padded or
packed, whichever is faster. Then the service is put under load. Prints tables and ends with one JSON line.

A machine with a GPU seldom has what exports encoders: `python -m bench models FOLDER/models --gpu` writes all that is
needed here, to be carried there.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.load.launch import make_models
from bench.load.servers import OURS, OURS_BINARY, Unavailable
from bench.load.workloads import SIZES, Size
from bench.speed.measure import Figures, Pace, draw_workloads, measure_server
from bench.speed.report import align, distrust
from service.encoder.sequences import Batch, Steps, pad_batch
from service.encoder.session import EncoderSession, open_session
from service.errors import StartupError
from service.settings import SHIPPED_MODEL, Provider

LENGTHS = (0, 1, 2, 3, 7, 19, 33, 64, 150, 200)  # of sequences that are compared
TRIALS = 6
TOLERANCE = 1e-5
SHAPES = ((1, 33), (32, 40), (256, 60), (512, 100), (2048, 60))  # rows, steps
CPU_STEPS = 32 * 200  # padded steps up to which one thread of the CPU is timed, too
RUN_SECONDS = 0.3  # for each shape
CONNECTIONS = {"S": 64, "B": 32}


def draw(session: EncoderSession, lengths: list[int], seed: int) -> list[Steps]:
    """Draw sequences that an encoder reads."""
    drawn = np.random.default_rng(seed)
    kind = session.kind
    if kind.features is None:
        return [drawn.integers(1, kind.vocabulary or 2, length) for length in lengths]
    return [drawn.standard_normal((length, kind.features)).astype(np.float32) for length in lengths]


def compare(cpu: EncoderSession, other: EncoderSession) -> dict[str, float]:
    """Return the largest differences over random batches.

    Args:
        cpu: the encoder on the CPU, which is taken to be right.
        other: the same encoder, as it is judged.

    Returns:
        `embeddings`, `steps` and `state` between the two; `alone`, between a sequence alone and in its batch; and
        `golden`, to the vectors inside the artifact. NaN counts as infinitely far.
    """
    found = {"embeddings": 0.0, "steps": 0.0, "state": 0.0, "alone": 0.0}
    drawn = np.random.default_rng(1)
    for trial in range(TRIALS):
        lengths = drawn.choice(LENGTHS, size=drawn.integers(1, 33)).tolist()
        sequences = draw(cpu, lengths, trial)
        batch = pad_batch(sequences)
        expected, given = cpu.run_all(batch), other.run_all(batch)
        alone = np.concatenate([other.run(pad_batch([steps])) for steps in sequences])
        pairs = [("embeddings", expected.embeddings, given.embeddings), ("alone", alone, given.embeddings)]
        if expected.steps is not None and given.steps is not None:
            pairs.append(("steps", expected.steps, given.steps))
        pairs += [("state", part, given.state[name]) for name, part in expected.state.items()]
        for name, one, two in pairs:
            found[name] = max(found[name], _distance(one, two))
    return found | {"golden": other.replay_golden() or 0.0}


def _distance(one: Any, two: Any) -> float:
    return float(np.nan_to_num(np.abs(one - two), nan=np.inf).max(initial=0.0))


def check_parity(models: list[Path], provider: Provider) -> dict[str, dict[str, float]]:
    """Compare every encoder, and print how far it is off.

    Raises:
        SystemExit: one is off by more than the tolerance.
    """
    found: dict[str, dict[str, float]] = {}
    rows = [["largest difference", "embeddings", "alone", "steps", "state", "golden"]]
    for model in models:
        found[model.stem] = compare(open_session(model, "cpu"), open_session(model, provider))
        rows.append([model.stem, *(f"{found[model.stem][name]:.1e}" for name in rows[0][1:])])
    print(*align(rows), sep="\n", end="\n\n", flush=True)
    wrong = [name for name, differences in found.items() if max(differences.values()) > TOLERANCE]
    if wrong:
        sys.exit(f"bench gpu: off by more than {TOLERANCE:g}: {', '.join(wrong)}")
    return found


def time_call(call: Callable[[], object]) -> float:
    """Return the median time of a call in ms, warmed up."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + RUN_SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def open_torch(size: Size) -> Callable[[Batch], list[Callable[[], object]]] | None:
    """Return what lists the ways in which torch encodes a batch on the GPU; None if torch cannot."""
    try:
        import torch  # noqa: PLC0415 - is not needed for the rest
    except ModuleNotFoundError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    encoder = torch.nn.LSTM(size.features, size.hidden, batch_first=True, bidirectional=True).cuda().eval()

    def average(steps: Any, lengths: Any) -> Any:
        kept = torch.arange(steps.shape[1])[None, :] < lengths[:, None]
        return ((steps * kept.cuda().unsqueeze(-1)).sum(1) / lengths.cuda().unsqueeze(-1)).cpu()

    def list_ways(batch: Batch) -> list[Callable[[], object]]:
        host = torch.from_numpy(np.ascontiguousarray(batch.steps)).pin_memory()
        lengths = torch.from_numpy(batch.lengths)

        def encode_padded() -> object:
            with torch.inference_mode():
                return average(encoder(host.cuda(non_blocking=True))[0], lengths)

        def encode_packed() -> object:
            with torch.inference_mode():
                packed = torch.nn.utils.rnn.pack_padded_sequence(
                    host.cuda(non_blocking=True), lengths, batch_first=True, enforce_sorted=False
                )
                steps, _ = torch.nn.utils.rnn.pad_packed_sequence(encoder(packed)[0], batch_first=True)
                return average(steps, lengths)

        return [encode_padded, encode_packed]

    return list_ways


def time_runs(model: Path, provider: Provider) -> Iterator[dict[str, float]]:
    """Time runs of every shape: here, on one thread of the CPU, and by torch; in ms, and in sequences a second."""
    session, cpu = open_session(model, provider), open_session(model, "cpu")
    ways = open_torch(SIZES[model.stem])
    for rows, steps in SHAPES:
        lengths = np.linspace(steps, max(1, steps // 3), rows).astype(int).tolist()
        batch = pad_batch(draw(session, lengths, 0))
        took = time_call(lambda batch=batch: session.run(batch))  # type: ignore[misc]
        line = {"rows": rows, "steps": steps, "ms": took, "sequences_per_second": 1e3 * rows / took}
        if rows * steps <= CPU_STEPS:
            line["cpu_ms"] = time_call(lambda batch=batch: cpu.run(batch))  # type: ignore[misc]
        if ways:
            line["torch_ms"] = min(time_call(way) for way in ways(batch))
        yield line


def print_runs(name: str, lines: list[dict[str, float]]) -> None:
    """Print the runs of one model."""
    rows = [[f"{name}, ms a run", "here", "one CPU thread", "torch", "sequences/s"]]
    for line in lines:
        others = (f"{line[key]:.2f}" if key in line else "-" for key in ("cpu_ms", "torch_ms"))
        shape = f"{line['rows']} x {line['steps']}"
        rows.append([shape, f"{line['ms']:.2f}", *others, f"{line['sequences_per_second']:,.0f}"])
    print(*align(rows), sep="\n", end="\n\n", flush=True)


def measure_service(model: Path, pace: Pace, processes: str) -> dict[str, Figures]:
    """Put single sequences in JSON, and requests of 32 in npz, on the service, and print what it gives."""
    workloads = {
        drawn.name: replace(drawn, connections=CONNECTIONS[drawn.name])
        for drawn in draw_workloads(model, [*CONNECTIONS])
    }
    found: dict[str, Figures] = {}
    rows = [[model.stem, "sequences/s", "p50 ms", "p99 ms", "failed", "gen"]]
    for workload, server in (("S", OURS), ("B", OURS_BINARY)):
        try:
            asked = replace(server, processes=processes)
            figures = measure_server(asked, Path(sys.executable), model, [workloads[workload]], pace)
        except Unavailable as error:
            print(f"{model.stem}, {workload}: not measured: {error}")
            continue
        found[workload] = figures
        cells = [f"{figures[f'{workload}.{key}']:,.2f}" for key in ("rate", "p50_ms", "p99_ms", "failed")]
        rows.append([workload, *cells, f"{figures[f'{workload}.generator']:.0%}"])
        if reason := distrust(server.name, figures, workload):
            print(f"{model.stem}, {workload}: not to be compared: {reason}")
    print(*align(rows), sep="\n", end="\n\n", flush=True)
    return found


def require(provider: Provider) -> str:
    """Return why this machine cannot run encoders there, or an empty sentence."""
    try:
        open_session(SHIPPED_MODEL, provider)
    except StartupError as error:
        return str(error)
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="+", choices=("parity", "runs", "service"), default=[])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu tries this program itself")
    parser.add_argument("--processes", default="", metavar="N", help="of the service; its own default if not given")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    if reason := require(options.provider):
        sys.exit(f"bench gpu: there is nothing to measure, for no encoder runs on {options.provider} here: {reason}")
    stages = options.stages or ["parity", "runs", "service"]
    folder = options.folder.resolve() / "models"
    if not (folder / "kinds" / "tokens.onnx").exists():  # the last that is written
        make_models(folder, "--gpu")
    models = [folder / f"{name}.onnx" for name in options.models]
    document: dict[str, object] = {"bench": "gpu", "provider": options.provider}
    if "parity" in stages:
        every = [SHIPPED_MODEL, *sorted((folder / "kinds").glob("*.onnx"))]
        document["parity"] = check_parity(every, options.provider)
    if "runs" in stages:
        runs = {model.stem: [*time_runs(model, options.provider)] for model in models}
        for name, lines in runs.items():
            print_runs(name, lines)
        document["runs"] = runs
    if "service" in stages:
        os.environ["LENGTHWISE_PROVIDER"] = options.provider
        pace = Pace(rounds=1, seconds=options.seconds, warm_seconds=2.0, raw_seconds=0.0)
        document["service"] = {model.stem: measure_service(model, pace, options.processes) for model in models}
    print(json.dumps(document))
