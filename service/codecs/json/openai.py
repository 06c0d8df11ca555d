"""The JSON of OpenAI's embeddings: `{"input": ..., "model": "..."}` in, `{"data": [{"embedding": ...}, ...], ...}` out.

What `input` holds tells its kind: a text or texts, the token ids of one sequence or of several, and, beyond what OpenAI
knows, the steps of one sequence or of several.
"""

import base64
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.codecs.json import exact
from service.codecs.json.plain import count_lists, decode_plain
from service.codecs.options import validate
from service.codecs.question import NUMBER_BYTES, Choose, Content, Question, Reply
from service.encoder.sequences import InputSpec, Sequences
from service.encoder.tokenizer import Texts
from service.errors import InvalidField, RequestTooLong

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
        description="A text or texts, where the model has a tokenizer; the token ids of one sequence or of several; "
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


def decode(body: bytes, choose: Choose, max_steps: int) -> Question:
    """Decode a request body.

    Args:
        body: JSON, UTF-8.
        choose: the model.
        max_steps: steps in all sequences together; a body that must hold more is not parsed at all.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: there are more than `max_steps` steps.
    """
    # One bracket opens the list, one each sequence and each step; members that nobody looks at may have some.
    most = 2 * max_steps + 1 + MAX_OTHER_LISTS
    if len(body) > most and count_lists(body) > most:
        raise RequestTooLong(max_steps, "input")
    decoded = decode_plain(body, choose, "input", may_be_alone=True)
    sequences: Sequences | Texts
    if decoded is None:
        fields = exact.read_document(body)
        sequences = _read_input(fields, choose(exact.name_model(fields)), max_steps)
    else:
        sequences, _, fields = decoded
    options = validate(EmbeddingsOptions, fields, EmbeddingsRequest.model_fields)

    def write(reply: Reply) -> Content:
        return Content(_encode(reply, options.encoding_format), "application/json")

    if isinstance(sequences, Sequences):
        sequences = exact.drop_padding(sequences)
    number_bytes = NUMBER_BYTES[options.encoding_format]
    return Question(sequences, write, dim=options.dimensions, number_bytes=number_bytes)


def _read_input(fields: dict[str, Any], spec: InputSpec, max_steps: int) -> Sequences | Texts:
    """Take `input` out of a document, whichever kind it is of; one sequence is the first of one."""
    if "input" not in fields:
        raise InvalidField("input", "missing", "a text, a sequence, or a list of either")
    nested = fields.pop("input")
    if isinstance(nested, str):
        nested = [nested]
    if isinstance(nested, list) and any(isinstance(part, str) for part in nested):
        if len(nested) > max_steps:
            raise RequestTooLong(max_steps, "input")
        return exact.read_texts(nested, "input", spec)
    if isinstance(nested, list) and exact.is_alone(nested, spec):
        nested = [nested]
    return exact.read_nested(nested, "input", spec)


def _encode(reply: Reply, encoding_format: Literal["float", "base64"]) -> bytes:
    rows: Any = reply.answer.embeddings
    if encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    steps = sum(reply.lengths)
    content = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": reply.model,
        "usage": {"prompt_tokens": steps, "total_tokens": steps},
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
