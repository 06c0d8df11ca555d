"""What a user's sequence must be to be learned from, whatever file it came from."""

from collections.abc import Sequence

import numpy as np

from model.data.datasets import Steps
from model.data.readers import BadFile, Item, round_to_float32


def check_item(path: str, place: str, item: Item, expected: Item | None, columns: Sequence[str] = ()) -> Item:
    """Return a text as it is and steps as an encoder reads them, or say what is wrong with them and where."""
    if not (item.strip() if isinstance(item, str) else len(item)):
        raise BadFile(path, place, "the sequence is empty")
    if not isinstance(item, str) and (item.ndim > 2 or item.dtype.kind not in "iuf"):
        raise BadFile(path, place, "a sequence must be a list of steps, each a list of numbers, or a list of token ids")
    if expected is not None and (found := name_kind(item)) != (wanted := name_kind(expected)):
        raise BadFile(path, place, f"steps are {found}, and {wanted} in the first sequence")
    if isinstance(item, str):
        return item
    if item.ndim == 1:
        return _check_tokens(path, place, item)
    if isinstance(expected, np.ndarray) and item.shape[1] != expected.shape[1]:
        reason = f"steps have {item.shape[1]} numbers, and {expected.shape[1]} in the first sequence"
        raise BadFile(path, place, reason)
    return _check_numbers(path, place, item, columns)


def name_kind(item: Item) -> str:
    """Say what the steps of an item are."""
    return "words of a text" if isinstance(item, str) else "token ids" if item.ndim == 1 else "lists of numbers"


def _check_numbers(path: str, place: str, steps: Steps, columns: Sequence[str]) -> Steps:
    if not steps.shape[1]:
        raise BadFile(path, place, "steps have no numbers")
    numbers = round_to_float32(steps)
    if not np.isfinite(numbers).all():
        step, feature = np.argwhere(~np.isfinite(numbers))[0]
        named = repr(columns[feature]) if columns else f"number {feature}"
        found = f"{named} of step {step} is {steps[step, feature]}, which is not a finite float32"
        raise BadFile(path, place, found + ": fill gaps first" * bool(np.isnan(steps[step, feature])))
    return numbers


def _check_tokens(path: str, place: str, steps: Steps) -> Steps:
    fits = (steps >= 1) & (steps < 2**31)
    if steps.dtype.kind == "f":
        fits &= steps == np.floor(steps)
    if not fits.all():
        step = int(np.argmin(fits))
        reason = f"step {step} is {steps[step]}, which is not a token id: an integer from 1, since 0 is padding"
        reason += "; a step of one number is written as a list of one, or the column is named by --feature-columns"
        raise BadFile(path, place, reason)
    return steps.astype(np.int64, copy=False)
