"""The native JSON: `{"sequences": [[[0.1, 0.2], ...], ...], ...}` in, `{"embeddings": [[...], ...], ...}` out.

Bodies are read by one of two parsers. The fast one reads numbers straight into an array and checks only
what is cheap to check; at any doubt, the exact one walks the document, and names the fault or reads what is right.
"""

import base64
import dataclasses
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.codecs import large
from service.codecs.json import exact
from service.codecs.json.plain import Bounds, ReadPlain, parse_plain, require_bounds
from service.codecs.options import AnswerOptions, add_query, validate
from service.codecs.question import Format, ReadSequences, Written
from service.encoder.sequences import Answer, InputSpec, Sequences, cut, drop_padding
from service.encoder.tokenizer import Texts
from service.errors import InvalidField
from service.settings import Limits

MEDIA_TYPE = "application/json"
HEADERS = ((b"content-type", MEDIA_TYPE.encode()),)

StateRows: TypeAlias = list[list[list[list[float]]]]  # [n][layers][directions][H]


class EncodeOptions(AnswerOptions):
    """Everything in a request but its sequences."""

    lengths: list[int] | None = Field(
        None, fail_fast=True, description="With sequences padded to one length: the number of valid steps in each."
    )


EXPECTED = {
    "sequences": "a list of sequences",
    "input": "a text, a sequence, or a list of either",
    "instances": "a list of sequences or texts",
}

DEFAULT_OPTIONS = EncodeOptions()  # frozen, so that all plain requests share it


class EncodeRequest(EncodeOptions):
    """Sequences to encode: lists of steps, each a list of the model's features, or lists of token ids; or texts."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["sequences"]}, {"required": ["texts"]}]})

    sequences: (
        Annotated[list[list[list[float]]], Field(min_length=1)] | Annotated[list[list[int]], Field(min_length=1)]
    ) = Field(default_factory=list, description="What to encode.")
    texts: list[str] = Field(default_factory=list, description="In place of `sequences`, if the model has a tokenizer.")
    state: dict[Literal["h", "c"], StateRows] | None = Field(
        None, description="What each sequence starts from, if the model takes it: the `state` of an earlier answer."
    )


class Usage(BaseModel):
    """What a request cost."""

    sequences: int
    steps: int = Field(description="Valid steps.")
    padded_steps: int = Field(description="Steps computed, padding included, in whatever batches the request ran in.")


class Guess(BaseModel):
    """What is predicted of a sequence: its class, or the next token."""

    label: str = Field(description="The likeliest.")
    scores: dict[str, float] = Field(
        description="The probability of each class, or of the ten likeliest tokens, the likeliest first."
    )


class EncodeResponse(BaseModel):
    """One embedding for each sequence, in order."""

    embeddings: list[list[float]] | list[str] | None = Field(None, description="Unless `outputs` leaves it out.")
    steps: list[list[list[float]]] | list[str] | None = Field(
        None, description="One list of outputs for each sequence."
    )
    state: dict[Literal["h", "c"], StateRows | list[str]] | None = Field(
        None, description="`h`, and `c` of LSTMs: one state for each sequence, `[layers][directions][hidden]`."
    )
    prediction: list[Guess] | list[float] | None = Field(
        None, description="What the model's task predicts of each sequence: a class, the next token, or a number."
    )
    dim: int
    lengths: list[int]
    model: str
    usage: Usage


def parse_fields(
    body: bytes,
    names: tuple[str, ...],
    read_exactly: Callable[[dict[str, Any], InputSpec], Sequences | Texts],
    *,
    may_be_alone: bool = False,
) -> tuple[dict[str, Any], ReadSequences]:
    """Parse a body: fast, and at any doubt exactly.

    Args:
        body: JSON, UTF-8.
        names: fields that may hold what is to be encoded, of which one must be there. The first holds sequences.
        read_exactly: reads that from a document which the fast reader does not take.
        may_be_alone: whether one sequence may stand in place of a list of them.

    Returns:
        The other fields, and what reads the sequences or texts.
    """
    document: dict[str, Any] | None = None
    read_plain: ReadPlain | None = None
    if parsed := parse_plain(body, names[0], may_be_alone=may_be_alone):
        fields, read_plain = parsed
    else:
        document = exact.read_document(body)
        if not document.keys() & set(names):
            raise InvalidField(names[0], "missing", EXPECTED[names[0]])
        fields = {name: value for name, value in document.items() if name not in names}

    def read(spec: InputSpec) -> Sequences | Texts:
        nonlocal read_plain
        plain, read_plain = read_plain, None  # it holds what was parsed, twice the body, which nobody needs again
        if plain and (sequences := plain(spec.kind)) is not None:
            return sequences
        return read_exactly(document or exact.read_document(body), spec)

    return fields, read


def parse(
    body: bytes, query: AnswerOptions | None, limits: Limits, bounds: Bounds
) -> tuple[EncodeOptions, ReadSequences]:
    """Parse a request body, unless it must hold more than a request may.

    Returns:
        The options, those of the query among them; and what reads the sequences, cut to `lengths` if these are given,
        or the texts.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    # Brackets open the list of sequences, `lengths`, `outputs`, each sequence and each step, and the nested states of
    # each sequence; no sequence costs less than a step.
    require_bounds(body, limits, bounds, (2 + bounds.state_lists) * limits.max_request_steps + 5)
    fields, read_given = parse_fields(body, ("sequences", "texts"), exact.read_sequences)
    state = fields.pop("state", None)
    options = validate(EncodeOptions, fields, exact.FIELDS) if fields else DEFAULT_OPTIONS
    if query is not None:
        options = add_query(options, query)

    def read(spec: InputSpec) -> Sequences | Texts:
        sequences = read_given(spec)
        if isinstance(sequences, Sequences):
            sequences = drop_padding(sequences) if options.lengths is None else cut(sequences, options.lengths)
        if state is not None:
            rows = len(sequences.lengths if isinstance(sequences, Sequences) else sequences.texts)
            sequences = dataclasses.replace(sequences, state=exact.read_state(state, spec, rows))
        return sequences

    return options, read


def write(answer: Answer, options: AnswerOptions) -> Written:
    """Write an answer as JSON."""
    lengths = answer.lengths
    content: dict[str, Any] = {}
    if "embedding" in options.outputs:
        content["embeddings"] = write_rows(answer.embeddings, options)
    if "steps" in options.outputs:
        content["steps"] = write_rows(answer.steps, options)
    if "state" in options.outputs:
        content["state"] = {name: write_rows(part, options) for name, part in answer.state.items()}
    if "prediction" in options.outputs and answer.predictor is not None and answer.logits is not None:
        content["prediction"] = answer.predictor.describe(answer.logits)
    # As `Usage`, which is not built: pydantic would take a third of the time that all of this does.
    usage = {"sequences": len(lengths), "steps": sum(lengths), "padded_steps": answer.padded_steps}
    content |= {"dim": answer.embeddings.shape[1], "lengths": lengths, "model": answer.model, "usage": usage}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), HEADERS


def write_base64(row: npt.NDArray[np.float32]) -> str:
    """Write a row as base64 of its little-endian float32."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def write_rows(rows: npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]], options: AnswerOptions) -> Any:
    """Return rows as orjson writes them, each a list of numbers or base64 as the options ask."""
    if options.encoding_format == "base64":
        return [*map(write_base64, rows)]
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


FORMAT = Format(
    MEDIA_TYPE,
    body={"$ref": "#/components/schemas/EncodeRequest"},
    parse=parse,
    write=write,
    is_whole=True,
)
