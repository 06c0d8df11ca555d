"""What every format is read into, and what every format is written from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from service.encoder.sequences import Answer, InputSpec, Lengths, Output, Sequences
from service.encoder.tokenizer import Texts

# That a float32 takes: as decimals 10 to 14, and 11.5 in the shipped encoder's embeddings; in base64; as it is.
NUMBER_BYTES = {"float": 12.0, "base64": 5.4}
RAW_BYTES = 4.0


class Content(NamedTuple):
    """A body to answer with."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Reply:
    """What there is to write once a request was computed.

    Attributes:
        answer: what the model gave.
        lengths: n valid steps.
        model: name of the model that ran.
        padded_steps: steps computed, padding included.
    """

    answer: Answer
    lengths: list[int]
    model: str
    padded_steps: int


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, whatever it was written in.

    Attributes:
        sequences: to encode; or texts, which are tokenised first.
        write: writes the answer as the request wants it.
        outputs: what is wanted of what the model gives.
        normalize: whether embeddings are scaled to L2 norm 1.
        dim: that embeddings must have, if it matters.
        timeout_seconds: what the body allows from the request's arrival, if it says.
        number_bytes: that a number of the answer takes, or somewhat more.
        padded_to: steps that each sequence of the answer's `steps` is padded to at least; None if they are not padded.
        check: refuses what cannot be answered at these lengths, if it must know those of texts, too.
    """

    sequences: Sequences | Texts
    write: Callable[[Reply], Content]
    outputs: tuple[Output, ...] = field(default=("embedding",))
    normalize: bool = False
    dim: int | None = None
    timeout_seconds: float | None = None
    number_bytes: float = NUMBER_BYTES["float"]
    padded_to: int | None = None
    check: Callable[[Lengths], None] | None = None


# From the name of a model, if one is given, to what it reads; raises UnknownModel. What the rest of a body means may
# depend on it, so that whoever reads the body asks as soon as the name is known.
Choose: TypeAlias = Callable[[str | None], InputSpec]

Decode: TypeAlias = Callable[[bytes], Question]
