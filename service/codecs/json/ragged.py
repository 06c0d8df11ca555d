"""The native JSON: `{"sequences": [[[0.1, 0.2], ...], ...], ...}` in, `{"embeddings": [[...], ...], ...}` out.

Decoding is in two passes over different parsers. The fast one reads numbers straight into an array and checks only
what is cheap to check; at any doubt the exact one walks the document, and names the fault or reads what is right.
"""

import base64
import dataclasses
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.codecs import large
from service.codecs.json import exact
from service.codecs.json.plain import count_lists, decode_plain
from service.codecs.options import AnswerOptions, add_query, require_same, validate
from service.codecs.question import Choose, Content, Reply
from service.encoder.sequences import InputSpec, Sequences
from service.encoder.tokenizer import Texts
from service.errors import RequestTooLong

MEDIA_TYPE = "application/json"

StateRows: TypeAlias = list[list[list[list[float]]]]  # [n][layers][directions][H]


class EncodeOptions(AnswerOptions):
    """Everything in a request but its sequences."""

    lengths: list[int] | None = Field(
        None, fail_fast=True, description="With sequences padded to one length: the number of valid steps in each."
    )


DEFAULT_OPTIONS = EncodeOptions()  # frozen, so that all plain requests share it


class EncodeRequest(EncodeOptions):
    """Sequences to encode: lists of steps, each a list of the model's features, or lists of token ids; or texts."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["sequences"]}, {"required": ["texts"]}]})

    sequences: (
        Annotated[list[list[list[float]]], Field(min_length=1)] | Annotated[list[list[int]], Field(min_length=1)]
    ) = Field(default_factory=list, description="What to encode.")
    texts: list[str] = Field(
        default_factory=list, description="In place of `sequences`, where the model has a tokenizer."
    )
    state: dict[Literal["h", "c"], StateRows] | None = Field(
        None, description="What each sequence starts from, where the model takes it: the `state` of an earlier answer."
    )


class Usage(BaseModel):
    """What a request cost."""

    sequences: int
    steps: int = Field(description="Valid steps.")
    padded_steps: int = Field(description="Steps computed, padding included, in whatever batches the request ran in.")


class EncodeResponse(BaseModel):
    """One embedding for each sequence, in order."""

    embeddings: list[list[float]] | list[str] | None = Field(None, description="Unless `outputs` leaves it out.")
    steps: list[list[list[float]]] | list[str] | None = Field(
        None, description="One list of outputs for each sequence."
    )
    state: dict[Literal["h", "c"], StateRows | list[str]] | None = Field(
        None, description="`h`, and `c` of LSTMs: one state for each sequence, `[layers][directions][hidden]`."
    )
    dim: int
    lengths: list[int]
    model: str
    usage: Usage


def decode(
    body: bytes, choose: Choose, max_steps: int, state_lists: int = 0, query: AnswerOptions | None = None
) -> tuple[Sequences | Texts, EncodeOptions]:
    """Decode a request body.

    Args:
        body: JSON, UTF-8.
        choose: the model.
        max_steps: steps in all sequences together; a body that must hold more is not parsed at all.
        state_lists: lists that the state of one sequence may take.
        query: options that stand in the query, if any.

    Returns:
        The sequences, cut to `lengths` if these are given, or the texts; and the options, those of the query among
        them.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: there are more than `max_steps` steps.
    """
    # Brackets open the list of sequences, `lengths`, `outputs`, each sequence and each step, and the nested states of
    # each sequence; no sequence costs less than a step.
    most = (2 + state_lists) * max_steps + 5
    if len(body) > most and count_lists(body) > most:
        raise RequestTooLong(max_steps)
    if query is not None and query.model is not None:
        choose = partial(_choose_asked, choose, query.model)
    decoded = decode_plain(body, choose)
    sequences: Sequences | Texts
    if decoded is None:
        fields = exact.read_document(body)
        spec = choose(exact.name_model(fields))
        sequences = exact.read_sequences(fields, spec)
    else:
        sequences, spec, fields = decoded
    state = fields.pop("state", None)
    options = validate(EncodeOptions, fields, exact.FIELDS) if fields else DEFAULT_OPTIONS
    if query is not None:
        options = add_query(options, query)
    if isinstance(sequences, Sequences):
        sequences = exact.drop_padding(sequences) if options.lengths is None else exact.cut(sequences, options.lengths)
    if state is not None:
        rows = len(sequences.lengths if isinstance(sequences, Sequences) else sequences.texts)
        sequences = dataclasses.replace(sequences, state=exact.read_state(state, spec, rows))
    return sequences, options


def _choose_asked(choose: Choose, asked: str, said: str | None) -> InputSpec:
    """Choose the model that the query asks for; the body may say the same, or nothing."""
    require_same("model", said, asked)
    return choose(asked)


def decode_lines(lines: Sequence[bytes], spec: InputSpec) -> Sequences | None:
    """Decode bare sequences, one a line, in one go.

    Args:
        lines: each without white space around it.
        spec: what the model reads.

    Returns:
        One sequence a line, or None at any doubt about any of them.
    """
    decoded = decode_plain(b'{"sequences":[' + b",".join(lines) + b"]}", lambda _: spec)
    if decoded is None or decoded[2]:
        return None
    # Each line is one sequence where it begins and ends as a list and opens as many lists as that sequence holds.
    sequences = decoded[0]
    brackets = [1] * len(sequences.lengths) if spec.features is None else (1 + sequences.lengths).tolist()
    if [line.count(b"[") for line in lines] != brackets:
        return None
    if not all(line.startswith(b"[") and line.endswith(b"]") for line in lines):
        return None
    return exact.drop_padding(sequences)


def write(reply: Reply, options: AnswerOptions) -> Content:
    """Write an answer as JSON."""
    answer, lengths = reply.answer, reply.lengths
    content: dict[str, Any] = {}
    if "embedding" in options.outputs:
        content["embeddings"] = _write_rows(answer.embeddings, options)
    if "steps" in options.outputs:
        content["steps"] = _write_rows(answer.steps, options)
    if "state" in options.outputs:
        content["state"] = {name: _write_rows(part, options) for name, part in answer.state.items()}
    # As `Usage`, which is not built: pydantic would take a third of the time that all of this does.
    usage = {"sequences": len(lengths), "steps": sum(lengths), "padded_steps": reply.padded_steps}
    content |= {"dim": answer.embeddings.shape[1], "lengths": lengths, "model": reply.model, "usage": usage}
    return Content(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), MEDIA_TYPE)


def _write_rows(rows: npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]], options: AnswerOptions) -> Any:
    if options.encoding_format == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    arrays = rows if isinstance(rows, np.ndarray) else [np.ascontiguousarray(row) for row in rows]
    numbers = arrays.size if isinstance(arrays, np.ndarray) else sum(array.size for array in arrays)
    return arrays if numbers <= large.LARGE_ANSWER_NUMBERS else orjson.Fragment(_write_pieces(arrays, numbers))


def _write_pieces(rows: npt.NDArray[np.float32] | list[npt.NDArray[np.float32]], numbers: int) -> bytes:
    """Write rows of so many numbers in all, giving way to others after every few."""
    count = 1 + large.PIECE_NUMBERS * len(rows) // numbers
    written = BytesIO()  # of pieces that are kept apart until the last one is there, the heap would keep the room
    for start in range(0, len(rows), count):
        written.write(b"," if start else b"[")
        written.write(orjson.dumps(rows[start : start + count], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        large.give_way()
    written.write(b"]")
    return written.getvalue()
