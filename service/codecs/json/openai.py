"""The JSON of OpenAI's embeddings: `{"input": ..., "model": "..."}` in, `{"data": [{"embedding": ...}, ...], ...}` out.

What `input` holds tells its kind: a text or texts, the token ids of one sequence or of several, and, beyond what OpenAI
knows, the steps of one sequence or of several.
"""

from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.codecs.json import exact
from service.codecs.json.plain import Bounds, is_alone, require_bounds
from service.codecs.json.ragged import HEADERS, parse_fields, write_base64
from service.codecs.options import validate
from service.codecs.question import NUMBER_BYTES, Question, Written
from service.encoder.sequences import Answer, InputSpec, Sequences, drop_padding
from service.encoder.tokenizer import Texts
from service.errors import RequestTooLong
from service.settings import Limits

MAX_OTHER_LISTS = 100  # beside the input


class EmbeddingsOptions(BaseModel):
    """Everything in a request but its input."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)  # clients send what other servers know

    model: str = Field(description="Name of the model, as `/v1/models` gives it.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64` gives each embedding as base64 of its little-endian float32."
    )
    dimensions: int | None = Field(None, description="Numbers in an embedding: refused unless the model's own.")
    user: str | None = Field(None, description="Not looked at.")


class EmbeddingsRequest(EmbeddingsOptions):
    """What to embed, as OpenAI's clients write it."""

    input: str | list[str] | list[int] | list[list[int]] | list[list[float]] | list[list[list[float]]] = Field(
        description="A text or texts, if the model has a tokenizer; the token ids of one sequence or of several; "
        "the steps of one sequence or of several, each a list of the model's features."
    )


class Embedding(BaseModel):
    """The embedding of one sequence."""

    object: Literal["embedding"]
    index: int = Field(description="Which sequence of the input it is of.")
    embedding: list[float] | str


class TokenUsage(BaseModel):
    """What a request cost: its valid steps, twice."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """One embedding for each sequence, in order."""

    object: Literal["list"]
    data: Annotated[list[Embedding], Field(min_length=1)]
    model: str
    usage: TokenUsage


def parse(body: bytes, limits: Limits, bounds: Bounds) -> Question:
    """Parse a request body, unless it must hold more than a request may.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    # One bracket opens the list, one each sequence and each step; members that nobody looks at may have some.
    require_bounds(body, limits, bounds, 2 * limits.max_request_steps + 1 + MAX_OTHER_LISTS, "input")
    read_exactly = partial(_read_input, max_steps=limits.max_request_steps)
    fields, read_given = parse_fields(body, ("input",), read_exactly, may_be_alone=True)
    options = validate(EmbeddingsOptions, fields, EmbeddingsRequest.model_fields)

    def read(spec: InputSpec) -> Sequences | Texts:
        sequences = read_given(spec)
        return drop_padding(sequences) if isinstance(sequences, Sequences) else sequences

    def write(answer: Answer) -> Written:
        return _encode(answer, options.encoding_format), HEADERS

    number_bytes = NUMBER_BYTES[options.encoding_format]
    return Question(read, write, options.model, dim=options.dimensions, number_bytes=number_bytes)


def _read_input(document: dict[str, Any], spec: InputSpec, max_steps: int) -> Sequences | Texts:
    """Read `input`, whichever kind it is of; one sequence is the first of one."""
    nested = document["input"]
    if isinstance(nested, str):
        nested = [nested]
    if isinstance(nested, list) and any(isinstance(part, str) for part in nested):
        if len(nested) > max_steps:
            raise RequestTooLong(max_steps, "input")
        return exact.read_texts(nested, "input", spec)
    if isinstance(nested, list) and is_alone(nested, spec.kind):
        nested = [nested]
    return exact.read_nested(nested, "input", spec)


def _encode(answer: Answer, encoding_format: Literal["float", "base64"]) -> bytes:
    rows: Any = [*map(write_base64, answer.embeddings)] if encoding_format == "base64" else answer.embeddings
    steps = sum(answer.lengths)
    content = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": answer.model,
        "usage": {"prompt_tokens": steps, "total_tokens": steps},
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
