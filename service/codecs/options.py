"""What a request may ask beside its sequences: options in the query, and in a JSON body fields of the same names."""

from collections.abc import Iterable
from typing import Literal, NoReturn, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.codecs.json.exact import describe, quote
from service.encoder.sequences import Output
from service.errors import InvalidField


class AnswerOptions(BaseModel):
    """How sequences are encoded and answered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = Field(None, description="Name of the model, as `/info` gives it; the loaded one by default.")
    outputs: list[Output] = Field(
        ["embedding"],
        min_length=1,
        fail_fast=True,
        description="What to answer, of what `/info` says the model gives: `embedding`; `steps`, the outputs of each "
        "step; `state`, the state after the last step; `prediction`, what the model's task predicts. Only JSON holds "
        "more than embeddings.",
    )
    normalize: bool = Field(False, description="Scale each embedding to L2 norm 1; a zero vector stays zero.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="In JSON, `base64` gives each embedding as base64 of its little-endian float32."
    )


Options = TypeVar("Options", bound=BaseModel)

DEFAULTS = AnswerOptions()
BOOLEANS = {"true": True, "false": False}


def read_query(query: bytes) -> AnswerOptions:
    """Read `model=NAME&outputs=embedding,steps&normalize=true&encoding_format=base64`.

    Raises:
        InvalidField: an option is unknown, stands twice or has no such value.
    """
    if not query:
        return DEFAULTS
    fields: dict[str, object] = {}
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in fields:
            raise InvalidField(quote(name), "given twice", "each option once")
        fields[name] = text
        if name == "normalize":
            fields[name] = BOOLEANS.get(text, text)
        if name == "outputs":
            fields[name] = text.split(",")
    return validate(AnswerOptions, fields, AnswerOptions.model_fields)


def add_query(body: Options, query: AnswerOptions) -> Options:
    """Add what a query asks to the options of a body.

    Raises:
        InvalidField: they say different things of the same option.
    """
    for name in query.model_fields_set & body.model_fields_set:
        require_same(name, getattr(body, name), getattr(query, name))
    return body.model_copy(update={name: getattr(query, name) for name in query.model_fields_set})


def require_same(name: str, said: object, asked: object) -> None:
    """Refuse an option of which the body says another thing than the query asks; null says nothing.

    Raises:
        InvalidField: it does.
    """
    is_same = set(said) == set(asked) if isinstance(said, list) and isinstance(asked, list) else said == asked
    if said is not None and not is_same:
        found = f"{_write_option(said)} in the body and {_write_option(asked)} in the query"
        raise InvalidField(name, found, "the same in both, or one of the two")


def _write_option(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(value)
        case _:
            return repr(str(value)[:40])


def validate(kind: type[Options], fields: dict[str, object], known: Iterable[str]) -> Options:
    """Check options.

    Args:
        kind: what they are read into.
        fields: as they came.
        known: names to tell who sends another.

    Raises:
        InvalidField: names the first fault.
    """
    if kind.model_config.get("extra") == "forbid":  # pydantic would tell of each that is unknown, in a kB of memory
        for name in fields:
            if name not in kind.model_fields:
                raise InvalidField(quote(name), "not a field of this request", f"one of {', '.join(known)}")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        _raise_first(error, known)


def _raise_first(error: ValidationError, known: Iterable[str]) -> NoReturn:
    first = error.errors(include_url=False)[0]
    is_unknown = first["type"] == "extra_forbidden"
    names = [quote(str(part)) if is_unknown and part == first["loc"][-1] else part for part in first["loc"]]
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")
    if is_unknown:
        raise InvalidField(path, "not a field of this request", f"one of {', '.join(known)}") from error
    if first["type"] == "missing":
        raise InvalidField(path, "missing", "a value") from error
    raise InvalidField(path, describe(first["input"]), first["msg"].removeprefix("Input should be ")) from error
