"""What is to be done: the plan that an output folder has, or a new one, and how long it should take."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bulk.encoder import Encodes
from bulk.mistakes import BulkError
from bulk.plan import PART, Plan, read_plan, require_same
from bulk.sources.files import JSON_LINES, find_inputs, find_kind, is_shown, make_shards, open_source
from bulk.sources.lines import infer_types
from bulk.sources.wanted import Wanted
from bulk.stores import Place, open_place
from service.settings import Settings

JUDGED = 5  # shards that a dry run reads


def make_plan(options: argparse.Namespace, encoder: Encodes, settings: Settings) -> tuple[Plan, Wanted]:
    """Return the plan of the output folder, made now or before, and what is read of each row."""
    outputs = options.outputs.split(",")
    offered = [name for name in encoder.outputs if name != "prediction"]  # bulk writes numbers only
    for name in outputs:
        if name not in offered:
            raise BulkError(f"--outputs names {name!r}, and {encoder.file} gives {', '.join(offered)}")
    if "embedding" not in outputs or (options.format == "npy" and outputs != ["embedding"]):
        raise BulkError("--outputs must name embedding, and for --format npy nothing else")
    if options.format == "openai" and outputs != ["embedding"]:
        raise BulkError("--format openai answers with embeddings, and --outputs must name nothing else")
    if options.format == "npy" and options.on_error == "drop":
        raise BulkError("--format npy holds a row for each that was read: --on-error null makes it NaN")
    folder = open_place(options.out)
    if options.format == "npy" and not folder.is_local:
        raise BulkError(f"--format npy is one array that grows in place, and {folder} is in a store: --format parquet")
    if options.format == "parquet":  # of a folder, nothing else is read
        refuse_inside(options.inputs, folder)
    wanted = make_wanted(options, encoder, settings)
    inputs = find_inputs(options.inputs)
    typed = [one for one in inputs if find_kind(one) in JSON_LINES] if options.format == "parquet" else []
    types = infer_types(open_place(typed[0].path), wanted) if typed else None
    wanted = replace(wanted, types=types)
    said: dict[str, Any] = {
        "format": options.format,
        "outputs": sorted(outputs),
        "sequence": options.sequence,
        "columns": None if wanted.columns is None else list(wanted.columns),
        "types": types,
        "on_error": options.on_error,
        "empty_sequences": options.empty_sequences,
        "max_sequence_steps": options.max_sequence_steps,
        **({} if wanted.id == "id" else {"id": wanted.id}),
        **({} if wanted.order == "order" else {"order": wanted.order}),
    }
    is_begun = any(PART.fullmatch(one.name) for one in folder.list_files())  # looked for first, for a plan comes first
    if (plan := read_plan(folder)) is not None:
        require_same(plan, encoder.sha256, said, inputs, folder)
        return plan, wanted
    if is_begun:
        raise BulkError(f"{folder} holds parts, and no plan.json says of what: encode into another folder")
    return Plan(encoder.sha256, said, inputs, make_shards(inputs, wanted)), wanted


def refuse_inside(names: list[str], folder: Place) -> None:
    """Refuse an output folder whose parts would be inputs the next time.

    Raises:
        BulkError: it is an input, or is inside one and would be read as part of it.
    """
    for name in names:
        inner = open_place(name).locate(folder)
        if inner is not None and is_shown(inner):
            raise BulkError(
                f"{folder} lies in the input {name}, to which its parts would be added: choose another --out"
            )


def make_wanted(
    options: argparse.Namespace, encoder: Encodes, settings: Settings, types: dict[str, str] | None = None
) -> Wanted:
    """Return what is read of each row; `types` are those of the plan."""
    named = None if options.columns is None else dict.fromkeys(filter(None, options.columns.split(",")))
    is_batch = options.format == "openai"
    return Wanted(
        options.sequence,
        None if named is None else tuple(named),
        encoder.spec,
        settings.limits,
        types,
        encoder.name,
        encoder.dim,
        is_batch,
        encoder.columns if len(encoder.columns) == encoder.spec.kind.features else (),
        options.id_column,
        options.order_column,
    )


def make_settings(options: argparse.Namespace, model: Path, runners: int = 0) -> Settings:
    """Return the settings of an encoder that encodes as the command line says."""
    most = options.max_sequence_steps
    return Settings(
        model=model,
        provider=options.provider,
        runners=runners,
        empty_sequences=options.empty_sequences,
        max_sequence_steps=most,
        max_batch_steps=max(16384, most),
        max_request_steps=max(100_000, most),
        max_queue_steps=max(1_000_000, most),
    )


def describe(plan: Plan, numbers: list[int], wanted: Wanted, encoder: Encodes) -> None:
    """Say what there is to do; steps and time are judged by a few of the shards.

    Args:
        plan: of all shards.
        numbers: of those to encode, ascending.
        wanted: says what is read of each row.
        encoder: predicts the time.
    """
    rows = sum(plan.shards[number].rows for number in numbers)
    sys.stdout.write(
        f"{say(plan.rows, 'row')} of {say(len(plan.inputs), 'file')} in {say(len(plan.shards), 'shard')}; "
        f"{say(rows, 'row')} in {len(numbers):,} of them {'is' if rows == 1 else 'are'} to be encoded\n"
    )
    if not numbers:
        return
    seconds: list[float | None] = []
    read = steps = errors = 0
    judged = pick(plan, numbers)
    for number in judged:
        shard = plan.shards[number]
        found = open_source(plan.inputs[shard.input], wanted).read(shard)
        lengths = np.fromiter(map(len, found.sequences), np.int64, len(found.sequences))
        seconds.append(encoder.predict(lengths))
        read, steps, errors = read + shard.rows, steps + found.steps, errors + len(found.errors)
    times = rows / max(1, read)
    known = [one for one in seconds if one is not None]
    time = f"{sum(known) * times:,.1f} s, " if known else ""
    sys.stdout.write(
        f"about {steps * times:,.0f} steps, {time}{rows * encoder.dim * 4 / 2**20:,.1f} MiB of embeddings; "
        f"judged by {say(len(judged), 'shard')}, in which "
        f"{errors:,} of {read:,} rows cannot be encoded\n"
    )


def say(number: int, noun: str) -> str:
    """Say how many of something there are."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pick(plan: Plan, numbers: list[int]) -> list[int]:
    """Pick a few shards, from the first to the last, that can be read without what lies before them."""
    places = [(shard.input, shard.first) for shard in plan.shards]
    begun = [number for number in numbers if not number or places[number] != places[number - 1]] or numbers[:1]
    count = min(JUDGED, len(begun))
    return [begun[place * (len(begun) - 1) // max(1, count - 1)] for place in range(count)]
