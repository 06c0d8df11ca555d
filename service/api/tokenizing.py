"""Texts to token ids, off the event loop and a group at a time: at a limit, or once nobody waits for it, it ends."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import cast

import numpy as np

from service import errors
from service.api.routing import Service
from service.catalogue.models import ServedModel
from service.codecs.json import ndjson
from service.codecs.json.ndjson import Found, Read
from service.encoder.sequences import Sequences, drop_padding, join
from service.encoder.tokenizer import Ids, Texts, Tokenize
from service.settings import Limits

logger = logging.getLogger("lengthwise")

INLINE_CHARACTERS = 2**11  # tokenised in a millisecond, so that it is not worth a thread
JUDGED_TOKENS = 1000  # fewer say little of a tokenizer
UNKNOWN_SHARE = 0.1  # of them, beyond which it is logged that they are unknown


async def tokenize(service: Service, model: ServedModel, texts: Texts, deadline: float = inf) -> Sequences:
    """Turn the texts of a request into token ids.

    Args:
        service: the service, whose limits hold and whose thread does it.
        model: the model that reads them.
        texts: texts that were checked.
        deadline: when the answer is of no use any more, in seconds of `time.perf_counter`.

    Raises:
        RequestTooLong: they have more tokens than a request may; the rest of them was not looked at.
        SequenceTooLong: one of them has more than any sequence may.
        DeadlinePassed: the time is over.
    """
    limits = service.settings.limits
    found: list[Ids] = []
    steps = 0
    try:
        async with asyncio.timeout(None if deadline == inf else deadline - time.perf_counter()):
            for group in texts.groups():
                ids = await _tokenize_group(service, model, group)
                steps += _count_steps(ids, len(found), texts.field, limits)
                if steps > limits.max_request_steps:
                    raise errors.RequestTooLong(limits.max_request_steps, texts.field)
                found += ids
    except TimeoutError:
        raise errors.DeadlinePassed from None
    except asyncio.CancelledError:
        service.telemetry.see_cancelled(model.name, "queue")
        raise
    return replace(drop_padding(join(found, model.spec.kind, texts.field)), state=texts.state)


async def tokenize_lines(service: Service, model: ServedModel, lines: Sequence[Read]) -> list[Found]:
    """Turn those lines of a stream that are texts into token ids, or into what is wrong with them."""
    texts = Texts([line for line in lines if isinstance(line, str)])
    ids = iter([one for group in texts.groups() for one in await _tokenize_group(service, model, group)])
    limits = service.settings.limits
    return [ndjson.check_line(next(ids), model.spec, limits) if isinstance(line, str) else line for line in lines]


async def _tokenize_group(service: Service, model: ServedModel, group: list[str]) -> list[Ids]:
    """Tokenise some texts, and count what the tokenizer did not know."""
    tokenize = cast("Tokenize", model.spec.tokenize)  # no texts come if the model has none
    if sum(map(len, group)) <= INLINE_CHARACTERS:
        found = tokenize(group)
    else:
        found = await asyncio.get_running_loop().run_in_executor(service.tokenizer, tokenize, group)
    _count_tokens(service, model, found)
    return found


def _count_tokens(service: Service, model: ServedModel, found: list[Ids]) -> None:
    """Count tokens, and log once of a model that its tokenizer does not know the texts it is sent."""
    counts = service.telemetry.of(model.name)
    unknown = sum(int(np.count_nonzero(ids == model.spec.unknown)) for ids in found)
    counts.unknown_tokens += unknown
    counts.known_tokens += sum(map(len, found)) - unknown
    seen = counts.known_tokens + counts.unknown_tokens
    if not counts.is_told and seen >= JUDGED_TOKENS and counts.unknown_tokens > UNKNOWN_SHARE * seen:
        counts.is_told = True
        logger.warning(
            "The tokenizer of %s does not know %.0f %% of the first %d tokens of texts: are they of the kind and "
            "language it was trained on?",
            model.name,
            100 * counts.unknown_tokens / seen,
            seen,
        )


def _count_steps(group: list[Ids], first: int, field: str, limits: Limits) -> int:
    """Return the steps of sequences, the first of which is the request's sequence `first`; an empty one counts as one.

    Raises:
        SequenceTooLong: carries the first such index.
    """
    for index, ids in enumerate(group, first):
        if len(ids) > limits.max_sequence_steps:
            raise errors.SequenceTooLong(f"{field}[{index}]", len(ids), limits.max_sequence_steps)
    return sum(max(1, len(ids)) for ids in group)
