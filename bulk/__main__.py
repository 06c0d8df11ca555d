"""Encode every sequence in files; called again after it was stopped, do what is left.

`lengthwise encode INPUT... -o OUT --model FILE` writes OUT/part-00000.parquet and so on. OUT/plan.json says what they
are.
"""

import argparse
import os
import signal
import sys
import threading
from bisect import bisect_left
from pathlib import Path

from pydantic import ValidationError

from bulk.encoder import Encoder, Encodes, settle_threads
from bulk.mistakes import BulkError
from bulk.planning import describe, make_plan, make_settings
from bulk.progress import Meter
from bulk.run import Bounds, Stages, run
from bulk.sinks.files import finish, open_sink
from bulk.stores import open_place
from service.errors import StartupError
from service.settings import SHIPPED_MODEL, Settings

SIGNALLED = 128  # and the signal's number: the exit code of a program that a signal ended, as shells read it


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="lengthwise encode", description=__doc__)
    add = parser.add_argument
    kinds = ".parquet, .jsonl, .csv, .txt, .npz, .npy, or a folder; its path, or its address in a store, as s3://B/x"
    add("inputs", nargs="+", metavar="INPUT", help=kinds)
    add("-o", "--out", required=True, metavar="OUT", help="folder to write to, made if it is not there; or its address")
    add("--model", help="the encoder: an ONNX file, or a folder that holds one; with --url, its name there")
    add("--url", help="a running service that encodes; output and resume are the same")
    add("--key", default=os.environ.get("LENGTHWISE_KEY"), help="that the service asks for; default $LENGTHWISE_KEY")
    add(
        "--format",
        choices=("parquet", "jsonl", "npy", "openai"),
        default="parquet",
        help="of the output; openai answers batch requests",
    )
    add("--outputs", default="embedding", help="what to write, of embedding, steps, state, separated by commas")
    named = "the column, or field, of the sequences; 'sequence' by default, or 'text' of texts"
    add("--sequence", "--sequence-column", default="sequence", metavar="NAME", help=named)
    add("--id-column", default="id", metavar="NAME", help="CSV of steps: whose step a line is; 'id' by default")
    add("--order-column", default="order", metavar="NAME", help="CSV of steps: what orders them; 'order' by default")
    add("--columns", metavar="NAMES", help="what else to keep of each row, separated by commas; all of it by default")
    add("--on-error", choices=("null", "drop", "fail"), default="null", help="a row that cannot be encoded")
    add("--max-errors", type=bound, metavar="N", help="end once more rows could not be encoded; any number by default")
    add("--empty-sequences", choices=("refuse", "zero"), default="refuse", help="what a sequence without steps gives")
    add("--max-sequence-steps", type=int, default=8192, metavar="N", help="steps in one sequence")
    add("--limit", type=bound, metavar="N", help="encode the shards that hold the first N rows, and no more")
    add("--shard", metavar="I/N", help="be one of N programs that share the work, the I-th from 0")
    add("--engine", choices=("local", "ray"), default="local", help="what encodes: this machine, or a cluster of Ray")
    add("--address", help="of the cluster; by default Ray starts on this machine")
    add("--actor-cpus", type=count, default=1, metavar="N", help="CPUs of each of Ray's actors, and its runs at a time")
    add("--dry-run", action="store_true", help="say what there is to do and how long it should take, and do nothing")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="where the encoder runs")
    add("--quiet", action="store_true", help="show no progress")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Encode; exit with one sentence if that cannot be."""
    options = read_arguments(sys.argv[1:] if arguments is None else arguments)
    settle_threads()
    try:
        sys.exit(encode(options))
    except (BulkError, StartupError) as error:
        sys.exit(f"lengthwise: {error}")
    except ValidationError as error:
        sys.exit(f"lengthwise: {'; '.join(fault['msg'] for fault in error.errors())}")


def encode(options: argparse.Namespace) -> int:
    """Plan, encode what is not done, and say what came of it; return the exit code."""
    place, programs = read_share(options.shard)
    settings = make_settings(options, Path(options.model or SHIPPED_MODEL))
    encoder = open_encoder(options, settings)
    try:
        plan, wanted = make_plan(options, encoder, settings)
        folder = open_place(options.out)
        sink = open_sink(folder, plan, encoder.dim, encoder.name)
        count = len(plan.shards)
        if options.limit is not None:
            count = bisect_left(plan.starts, options.limit, hi=count)
        done = sink.find_done()
        mine = [number for number in range(count) if number * programs // count == place and number not in done]
        if options.dry_run:
            describe(plan, mine, wanted, encoder)
            return 0
        plan.save(folder)
        sink.prepare()
        bounds = Bounds(options.max_errors, threading.Event())
        caught = catch_signals(bounds.stop)
        rows = sum(plan.shards[number].rows for number in mine)
        with Meter(rows, quiet=options.quiet) as meter:
            if options.engine == "ray":
                from bulk.cluster import run_on_ray  # noqa: PLC0415 - only --engine ray needs it

                encoded = run_on_ray(options, plan, mine, meter, bounds)
            else:
                encoded = run(plan, mine, Stages(wanted, encoder, sink), meter, bounds)
        left = len(plan.shards) - len(sink.find_done())
        errors = finish(folder) if not left else meter.done.errors
        sys.stderr.write(
            f"{meter.done.rows:,} rows in {meter.seconds:,.1f} s, {meter.done.describe(meter.seconds)}; "
            f"{len(plan.shards) - left} of {len(plan.shards)} shards are done"
            f"{f', and {errors} rows could not be encoded: see errors.jsonl' if errors and not left else ''}.\n"
        )
        return SIGNALLED + (caught or [signal.SIGTERM])[0] if encoded < len(mine) else 0
    finally:
        encoder.close()


def catch_signals(stop: threading.Event) -> list[int]:
    """Have SIGTERM and Ctrl-C end the program after the shard in hand, and the second of a kind at once.

    Args:
        stop: is set by the first.

    Returns:
        Those that came, in turn, now and later.
    """
    caught: list[int] = []

    def take_in(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, take_in)
    return caught


def open_encoder(options: argparse.Namespace, settings: Settings) -> Encodes:
    """Open the artifact, or ask the service what it serves."""
    if not options.url:
        return Encoder(settings)
    try:
        from bulk.remote import RemoteEncoder  # noqa: PLC0415 - only --url needs httpx
    except ImportError as error:
        raise BulkError(f"--url asks through the client, which needs {error.name}: pip install ./client") from None
    return RemoteEncoder(options.url, options.model, options.key, settings.limits)


def count(text: str) -> int:
    """Read a number of things, of which there must be one.

    Raises:
        ValueError: it is none.
    """
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def bound(text: str) -> int:
    """Read how many things there may be, perhaps none.

    Raises:
        ValueError: there would be fewer.
    """
    if (number := int(text)) < 0:
        raise ValueError(text)
    return number


def read_share(text: str | None) -> tuple[int, int]:
    """Read `I/N`.

    Raises:
        BulkError: it is not two numbers, 0 <= I < N.
    """
    if text is None:
        return 0, 1
    place, _, programs = text.partition("/")
    if not (place.isdecimal() and programs.isdecimal() and int(place) < int(programs)):
        raise BulkError(f"--shard is {text!r}, and must be I/N with 0 <= I < N, as 0/4")
    return int(place), int(programs)


if __name__ == "__main__":
    main()
