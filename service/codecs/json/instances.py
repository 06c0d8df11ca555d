"""The JSON of Vertex AI and KServe V1: `{"instances": [...], "parameters": {...}}` in, `{"predictions": [...]}` out.

An instance is a sequence as `/encode` takes it, or a text; a prediction is its embedding.
"""

from functools import partial
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.codecs import large
from service.codecs.json import exact
from service.codecs.json.plain import Bounds, require_bounds
from service.codecs.json.ragged import HEADERS, parse_fields, write_base64, write_rows
from service.codecs.options import DEFAULTS, AnswerOptions, validate
from service.codecs.question import NUMBER_BYTES, Question, Written
from service.encoder.sequences import Answer, InputSpec, Sequences, drop_padding
from service.encoder.tokenizer import Texts
from service.errors import InvalidField, RequestTooLong
from service.settings import Limits

FIELD = "instances"
MAX_OTHER_LISTS = 100  # beside the instances


class PredictOptions(BaseModel):
    """Everything in a request but its instances."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)  # clients send what other servers know

    parameters: AnswerOptions | None = Field(None, description="The options of `/encode`, of the same names.")


class PredictRequest(PredictOptions):
    """What to encode, as Vertex AI and KServe V1 send it."""

    instances: (
        Annotated[list[list[list[float]]], Field(min_length=1)]
        | Annotated[list[list[int]], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1)]
    ) = Field(
        description="Sequences, each a list of steps or of token ids; or texts, if the model has a tokenizer.",
    )


class PredictResponse(BaseModel):
    """One prediction for each instance, in order."""

    predictions: list[list[float]] | list[str] | list[dict[str, Any]] = Field(
        description="Embeddings; if `outputs` asks for anything else, objects that hold each output by its name."
    )


def parse(body: bytes, limits: Limits, bounds: Bounds, name: str | None = None) -> Question:
    """Parse a request body, unless it must hold more than a request may.

    Args:
        body: JSON, UTF-8.
        limits: what a request may hold.
        bounds: what the sequences of the models take in JSON.
        name: the model that the path names; None if that is left to the body.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    # One bracket opens the list, one each sequence and each step; members that nobody looks at may have some.
    require_bounds(body, limits, bounds, 2 * limits.max_request_steps + 1 + MAX_OTHER_LISTS, FIELD)
    read_exactly = partial(_read_instances, max_steps=limits.max_request_steps)
    fields, read_given = parse_fields(body, (FIELD,), read_exactly)
    options = validate(PredictOptions, fields, AnswerOptions.model_fields).parameters or DEFAULTS
    if name is not None and options.model not in (None, name):
        found = f"{str(options.model)[:40]!r} in the body and {name!r} in the path"
        raise InvalidField("parameters.model", found, "the same in both")

    def read(spec: InputSpec) -> Sequences | Texts:
        given = read_given(spec)
        return drop_padding(given) if isinstance(given, Sequences) else given

    def write(answer: Answer) -> Written:
        return _write(answer, options), HEADERS

    number_bytes = NUMBER_BYTES[options.encoding_format]
    return Question(read, write, options.model, tuple(options.outputs), options.normalize, number_bytes=number_bytes)


def _read_instances(document: dict[str, Any], spec: InputSpec, max_steps: int) -> Sequences | Texts:
    """Read `instances`: sequences, or texts if any of them is one."""
    nested = document[FIELD]
    if isinstance(nested, list) and any(isinstance(part, str) for part in nested):
        if len(nested) > max_steps:
            raise RequestTooLong(max_steps, FIELD)
        return exact.read_texts(nested, FIELD, spec)
    return exact.read_nested(nested, FIELD, spec)


def _write(answer: Answer, options: AnswerOptions) -> bytes:
    """Write an answer: bare embeddings, or an object with the outputs of each sequence."""
    if options.outputs == ["embedding"]:
        predictions = write_rows(answer.embeddings, options)
    else:
        predictions = [_write_outputs(answer, row, options) for row in range(len(answer.lengths))]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _write_outputs(answer: Answer, row: int, options: AnswerOptions) -> orjson.Fragment:
    """Write what the model gave for one sequence, and give way to others if the whole answer is large."""
    content: dict[str, Any] = {}
    write_row = write_base64 if options.encoding_format == "base64" else np.ascontiguousarray
    if "embedding" in options.outputs:
        content["embedding"] = write_row(answer.embeddings[row])
    if "steps" in options.outputs:
        content["steps"] = write_row(answer.steps[row])
    if "state" in options.outputs:
        content["state"] = {name: write_row(part[row]) for name, part in answer.state.items()}
    if answer.numbers > large.LARGE_ANSWER_NUMBERS:
        large.give_way()
    return orjson.Fragment(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
