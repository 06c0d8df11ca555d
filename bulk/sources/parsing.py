"""Rows of JSON and texts, read as the model reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bulk.mistakes import BadInput
from bulk.rows import PLACE, Rows, check, empty
from bulk.sources.wanted import Wanted
from service.codecs.json.exact import describe
from service.encoder.sequences import InputSpec, Steps
from service.errors import FeatureMismatch, InvalidField, LengthwiseError, NotOffered, TextTooLong
from service.settings import Limits


def show(value: object) -> str:
    """Return a value of JSON as a message has it, shortened: a list or an object, however deep, by its kind alone."""
    is_short = isinstance(value, str | int | float) and not isinstance(value, bool)
    return repr(value)[:40] if is_short else describe(value)


def read_sequence(found: Any, spec: InputSpec) -> Steps | str | LengthwiseError:  # noqa: PLR0911 - a fault each
    """Read the sequence in a row of JSON: a text, or lists of numbers."""
    if isinstance(found, str):
        return found if spec.tokenize else NotOffered(PLACE, "is a text, and the model reads none")
    if not isinstance(found, list):
        return InvalidField(PLACE, describe(found), "a list")
    if spec.kind.features is None:
        if all(type(one) is int and abs(one) < 2**63 for one in found):
            return np.array(found, np.int64)
        place = next(n for n, one in enumerate(found) if type(one) is not int or abs(one) >= 2**63)
        return InvalidField(f"{PLACE}[{place}]", show(found[place]), "a token id")
    for place, step in enumerate(found):
        if not isinstance(step, list):
            return InvalidField(f"{PLACE}[{place}]", show(step), f"a step: a list of {spec.kind.features} numbers")
        if len(step) != spec.kind.features:
            return FeatureMismatch(f"{PLACE}[{place}]", len(step), spec.kind.features)
        for feature, number in enumerate(step):
            if type(number) not in (int, float):
                return InvalidField(f"{PLACE}[{place}][{feature}]", show(number), "a number")
    with np.errstate(over="ignore"):
        return np.array(found, np.float64).astype(np.float32).reshape(-1, spec.kind.features)


def take_sequence(row: dict[str, Any], wanted: Wanted) -> Steps | str | LengthwiseError:
    """Take the sequence out of an object of JSON: what one field holds, or the lists of several side by side."""
    names = wanted.find(row)
    if not names:
        return InvalidField("The line", "no object with this field", f"an object with {wanted.column!r}")
    found = [row.pop(name) for name in names]
    if names != wanted.features:
        return read_sequence(found[0], wanted.spec)
    for name, numbers in zip(names, found, strict=True):
        if not isinstance(numbers, list):
            return InvalidField(name, show(numbers), "a list with a number for each step")
        if len(numbers) != len(found[0]):
            return InvalidField(name, f"{len(numbers)} numbers", f"as many as {names[0]!r} holds, {len(found[0])}")
    return read_sequence([*map(list, zip(*found, strict=True))], wanted.spec)


def decode(text: bytes | None) -> str | LengthwiseError:
    """Return a text, or what is wrong with its bytes."""
    if text is None:
        return InvalidField(PLACE, describe(None), "a text")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        return InvalidField(PLACE, f"not UTF-8 from its byte {error.start} on", "a text")


def read_texts(texts: Sequence[str | LengthwiseError | None], spec: InputSpec, limits: Limits, columns: Any) -> Rows:
    """Tokenise texts; what is null, or could not be decoded, is a bad row."""
    if spec.tokenize is None:
        raise BadInput("the input", "it holds texts, and the model reads none")
    return finish([decode(None) if text is None else text for text in texts], spec, limits, columns)


def finish(found: Sequence[Steps | str | LengthwiseError], spec: InputSpec, limits: Limits, columns: Any) -> Rows:
    """Tokenise what are texts, and check everything."""
    read: list[Steps | LengthwiseError] = [empty(spec)] * len(found)
    texts: list[tuple[int, str]] = []
    for row, one in enumerate(found):
        if not isinstance(one, str):
            read[row] = one
        elif len(one) > limits.max_text_characters:
            read[row] = TextTooLong(PLACE, len(one), limits.max_text_characters)
        else:
            texts.append((row, one))
    if texts and spec.tokenize is not None:
        for (row, _), ids in zip(texts, spec.tokenize([text for _, text in texts]), strict=True):
            read[row] = ids
    return check(read, spec, limits, columns)
