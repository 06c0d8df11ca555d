"""What every format is read into, and what a format says of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TypeAlias

from service.codecs.json.plain import Bounds
from service.codecs.options import AnswerOptions
from service.encoder.frozen import frozen
from service.encoder.sequences import Answer, InputSpec, Lengths, Output, Sequences
from service.encoder.tokenizer import Texts
from service.errors import ExtraMissing
from service.settings import Limits

# Bytes of a float32: as decimals 10 to 14, and 11.5 in the shipped encoder's embeddings; in base64; as it is.
NUMBER_BYTES = {"float": 12.0, "base64": 5.4}
RAW_BYTES = 4.0

ReadSequences: TypeAlias = Callable[[InputSpec], Sequences | Texts]  # what a body holds, to a model that reads this
Described: TypeAlias = str | Mapping[str, str] | None
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]  # as ASGI takes them
Written: TypeAlias = tuple[bytes, Headers]  # a body to answer with, and the headers of its format

# The same from a body that may open to so many bytes; and from one that holds options, too, beside those of the query.
ReadBody: TypeAlias = Callable[[bytes, InputSpec, int], Sequences]
ParseBody: TypeAlias = Callable[[bytes, AnswerOptions | None, Limits, Bounds], tuple[AnswerOptions, ReadSequences]]
WriteAnswer: TypeAlias = Callable[[Answer, AnswerOptions], Written]


@frozen
class Question:
    """What a request asks, whatever it was written in. Its sequences are not read yet: that takes a model.

    Attributes:
        read: reads its sequences, or texts, as a model takes them.
        write: writes the answer as the request wants it.
        model: the name of the model that the body asks for, if it says.
        outputs: what is wanted of what the model gives.
        normalize: whether embeddings are scaled to L2 norm 1.
        dim: numbers that embeddings must have, if that matters.
        timeout_seconds: what the body allows from the request's arrival, if it says.
        number_bytes: bytes that a number of the answer takes, or somewhat more.
        padded_to: steps that each sequence of the answer's `steps` is padded to at least; None if they are not padded.
        gives_logits: whether predictions are answered as the logits they are made of.
        check: refuses what cannot be answered at these lengths, those of texts included.
    """

    read: ReadSequences
    write: Callable[[Answer], Written]
    model: str | None = None
    outputs: tuple[Output, ...] = ("embedding",)
    normalize: bool = False
    dim: int | None = None
    timeout_seconds: float | None = None
    number_bytes: float = NUMBER_BYTES["float"]
    padded_to: int | None = None
    gives_logits: bool = False
    check: Callable[[Lengths], None] | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """A format of `POST /encode`: of bodies, of answers, or of both.

    Attributes:
        media_type: its name in `Content-Type` and `Accept`.
        body: what a body holds, in a sentence or as a schema; None if bodies are never of this format.
        answer: likewise of an answer; None also if the route's own schema says it.
        read: reads the sequences of a body that holds nothing else.
        parse: in its place, parses a body that holds options too.
        write: writes an answer as its options ask.
        is_whole: whether an answer holds all outputs; if not, it holds embeddings only.
        module: a module of an extra that reads and writes it, imported with the first body or answer.
        extra: the name of that extra.
    """

    media_type: str
    body: Described = None
    answer: Described = None
    read: ReadBody | None = None
    parse: ParseBody | None = None
    write: WriteAnswer | None = None
    is_whole: bool = False
    module: str = ""
    extra: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the module it needs can be imported, if it needs any."""
        return not self.module or can_import(self.module.partition(".")[0])

    def load(self) -> None:
        """Import the module it needs, which takes some tenths of a second the first time.

        Raises:
            ExtraMissing: the module is not installed.
        """
        if not self.is_installed:
            raise ExtraMissing(self.media_type, self.module.partition(".")[0], self.extra)
        if self.module:
            import_module(self.module)


@cache
def can_import(package: str) -> bool:
    """Whether a package is installed; found out without importing it."""
    return find_spec(package) is not None
