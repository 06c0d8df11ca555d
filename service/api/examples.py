"""Requests that the models that are served answer as they stand, made of golden vectors if an artifact has them."""

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from service.catalogue.models import ServedModel
from service.codecs.json import exact
from service.codecs.kserve.inference import DATATYPES
from service.encoder.sequences import Kind, Steps, Tokens, join, pad_batch
from service.errors import LengthwiseError
from service.settings import Limits

Named: TypeAlias = dict[str, Any]  # examples as OpenAPI has them, by their names

LENGTHS = (3, 2)  # of the sequences in an example, if the limits allow them
MAX_NUMBERS = 200  # in all its sequences, unless a single step has more
DIGITS = 4  # of a number of a golden vector; more would only be harder to read
TEXTS = ("a text of several words", "and another")

PAGE_STEPS = 4096  # of all the examples of the page
CUT_STEPS = 4  # a golden vector of so many steps or more is shown in parts, too
PAGE_TEXTS = (
    "a man plays the guitar",
    "a woman plays the violin",
    "someone plays music",
    "the dog runs across the field",
    "a cat sleeps on the sofa",
    "two dogs run in the snow",
    "the film was wonderful",
    "the film was far too long",
    "I would not watch it again",
    "rain is expected in the north tomorrow",
)


def show_native(models: Sequence[ServedModel], limits: Limits, default: str | None) -> Named:
    """Write bodies of `/encode`; each names its model if there are several, or no default."""
    found: Named = {}
    for model in models:
        named = {} if len(models) == 1 and default == model.name else {"model": model.name}
        if sequences := make_sequences(model, limits):
            _add(found, f"{model.name}: sequences", {**named, "sequences": [_write(steps) for steps in sequences]})
        if texts := choose_texts(model, limits):
            _add(found, f"{model.name}: texts", {**named, "texts": texts})
    return found


def show_openai(models: Sequence[ServedModel], limits: Limits) -> Named:
    """Write bodies of `/v1/embeddings`."""
    found: Named = {}
    for model in models:
        if texts := choose_texts(model, limits):
            _add(found, f"{model.name}: texts", {"model": model.name, "input": texts})
        if sequences := make_sequences(model, limits):
            written = [_write(steps) for steps in sequences]
            _add(found, f"{model.name}: sequences", {"model": model.name, "input": written})
    return found


def show_instances(model: ServedModel, limits: Limits, default: str | None) -> Named:
    """Write bodies of instances; they name the model unless it is the default."""
    found: Named = {}
    named = {} if default == model.name else {"parameters": {"model": model.name}}
    if sequences := make_sequences(model, limits):
        _add(found, f"{model.name}: sequences", {"instances": [_write(steps) for steps in sequences], **named})
    if texts := choose_texts(model, limits):
        _add(found, f"{model.name}: texts", {"instances": texts, **named})
    return found


def show_v2(model: ServedModel, limits: Limits) -> Named:
    """Write bodies of `/v2/models/{model}/infer`: padded, ragged and, if the model reads them, texts."""
    found: Named = {}
    datatype = DATATYPES[model.spec.kind.dtype]
    if sequences := make_sequences(model, limits):
        batch, whole = pad_batch(sequences), join(sequences, model.spec.kind)
        lengths = {"name": "lengths", "shape": [len(sequences)], "datatype": "INT64", "data": batch.lengths.tolist()}
        for form, steps, more in (
            ("padded", batch.steps, {}),
            ("ragged", whole.values, {"parameters": {"ragged": True}}),
        ):
            data = _write(steps.reshape(-1))
            tensor = {"name": "sequences", "shape": list(steps.shape), "datatype": datatype, "data": data}
            _add(found, f"{model.name}: {form}", {"inputs": [tensor, lengths], **more})
    if texts := choose_texts(model, limits):
        tensor = {"name": "texts", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        _add(found, f"{model.name}: texts", {"inputs": [tensor]})
    return found


def show_page(model: ServedModel, limits: Limits) -> Named:
    """Write examples for the page: texts, or golden vectors whole and in parts, as exactly as they are stored."""
    if model.spec.tokenize and (texts := choose_texts(model, limits, PAGE_TEXTS)):
        return {"model": model.full_name, "kind": "text", "examples": [{"text": text} for text in texts]}
    manifest, left = model.session.manifest, min(PAGE_STEPS, limits.max_request_steps)
    golden = [vector.sequence.array() for vector in manifest.golden] if manifest else []
    golden = [steps for steps in golden if 0 < len(steps) <= limits.max_sequence_steps] or make_sequences(model, limits)
    shown: list[dict[str, Any]] = []
    for number, steps in enumerate(golden, 1):
        length = len(steps)
        cuts = [(0, length)]
        if length >= CUT_STEPS:
            cuts += [(0, length // 4), (0, length // 2), (length // 2, length), (length // 4, length - length // 4)]
        for start, stop in cuts:
            if stop - start <= left:
                left -= stop - start
                shown.append({"of": number, "start": start, "stop": stop, "sequence": steps[start:stop].copy()})
    kind = "tokens" if isinstance(model.spec.kind, Tokens) else "features"
    return {"model": model.full_name, "kind": kind, "examples": shown, "golden": bool(manifest)}


def make_sequences(model: ServedModel, limits: Limits) -> list[Steps]:
    """Return short sequences that a model reads: the first steps of its golden vectors, else made ones; or none."""
    left = min(limits.max_request_steps, max(1, MAX_NUMBERS // prod(model.spec.kind.shape)))
    lengths: list[int] = []
    for most in LENGTHS:
        if length := min(most, limits.max_sequence_steps, left):
            lengths.append(length)
            left -= length
    manifest = model.session.manifest
    golden = [vector.sequence.array() for vector in manifest.golden] if manifest else []
    cut = [steps[:length] for steps, length in zip(filter(len, golden), lengths, strict=False)]
    for sequences in (cut, [_make(length, model.spec.kind) for length in lengths]):
        if _is_answered(sequences, model, limits):
            return sequences
    return []


def choose_texts(model: ServedModel, limits: Limits, texts: Sequence[str] = TEXTS) -> list[str]:
    """Return texts if a model reads them; none if it does not read texts, or cannot read these."""
    if model.spec.tokenize is None:
        return []
    try:
        exact.read_texts([*texts], "texts", model.spec).check(limits)
        join(model.spec.tokenize(texts), model.spec.kind, "texts").check(limits, model.spec.kind.vocabulary)
    except Exception:  # noqa: BLE001 - whatever a tokenizer has against them, they are not an example
        return []
    return [*texts]


def _is_answered(sequences: list[Steps], model: ServedModel, limits: Limits) -> bool:
    try:
        join(sequences, model.spec.kind).check(limits, model.spec.kind.vocabulary)
    except LengthwiseError:
        return False
    return True


def _make(length: int, kind: Kind) -> Steps:
    if isinstance(kind, Tokens):
        return 1 + np.arange(length, dtype=kind.dtype) % max(1, (kind.vocabulary or 9) - 1)
    return (np.arange(length * kind.features) % 10 / 10).astype(kind.dtype).reshape(length, kind.features)


def _write(steps: Steps) -> Any:
    return steps.tolist() if steps.dtype == np.int64 else np.round(steps.astype(np.float64), DIGITS).tolist()


def _add(found: Named, name: str, value: object) -> None:
    found[name] = {"value": value}
