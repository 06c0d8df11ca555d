"""Turns texts into token ids, with the tokenizer that a text encoder carries in its manifest.

While texts are tokenised, each character takes hundreds of bytes. So a request's texts are only counted when it is
decoded, and tokenised later, a group at a time. Each text stays whole, since a tokenizer may look at all of it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.encoder.sequences import InputSpec, State
from service.encoder.session import EncoderSession
from service.errors import ArtifactError, RequestTooLong, TextsTooLong, TextTooLong
from service.settings import Limits

GROUP_CHARACTERS = 2**14  # in a group: it takes some 6 ms, and 10 MB
TEXT_CHARACTERS = 16  # counted for each text beside its own: an empty one takes 2 us, too

Ids: TypeAlias = npt.NDArray[np.int64]  # (t,)
Tokenize: TypeAlias = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one request, in order, before they are tokenised.

    Attributes:
        texts: n strings.
        state: the states they start from, as in `Sequences`.
        field: the field of the request that held them, for messages.
    """

    texts: Sequence[str]
    state: State = field(default_factory=dict)
    field: str = "texts"

    def check(self, limits: Limits) -> None:
        """Refuse texts that would take too long to tokenise.

        Args:
            limits: the most that one request may hold.

        Raises:
            RequestTooLong: there are more texts than a request may have steps, and each has one at least.
            TextTooLong: one text has too many characters; carries the first such index.
            TextsTooLong: all texts together have too many characters.
        """
        if len(self.texts) > limits.max_request_steps:
            raise RequestTooLong(limits.max_request_steps, self.field)
        for index, text in enumerate(self.texts):
            if len(text) > limits.max_text_characters:
                raise TextTooLong(f"{self.field}[{index}]", len(text), limits.max_text_characters)
        if sum(map(len, self.texts)) > limits.max_request_characters:
            raise TextsTooLong(limits.max_request_characters, self.field)

    def groups(self) -> Iterator[list[str]]:
        """Yield the texts a group at a time; a long one is a group of its own."""
        group: list[str] = []
        size = 0
        for text in self.texts:
            cost = len(text) + TEXT_CHARACTERS
            if group and size + cost > GROUP_CHARACTERS:
                yield group
                group, size = [], 0
            group.append(text)
            size += cost
        if group:
            yield group


def describe_input(session: EncoderSession) -> InputSpec:
    """Return what a session reads; that includes texts if its manifest carries a tokenizer.

    Raises:
        ArtifactError: the tokenizer cannot be built.
    """
    definition = None if session.manifest is None else session.manifest.input.tokenizer
    return InputSpec(
        kind=session.kind,
        tokenize=None if definition is None else read_tokenizer(definition, session.file),
        unknown=None if definition is None else find_unknown(definition),
        state_names=tuple(session.state_names) if session.takes_state else (),
        state_shape=session.state_shape or (),
    )


def read_tokenizer(definition: str, file: str) -> Tokenize:
    """Build the tokenizer of an artifact.

    Args:
        definition: the JSON of the `tokenizers` library.
        file: the artifact's name, for the error.

    Returns:
        A function from n texts to n arrays of ids `(t_i,)`.

    Raises:
        ArtifactError: the definition cannot be read, or the library is not installed.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  # 10 MB that only text encoders need
    except ImportError:
        raise ArtifactError(file, "it reads texts, and the package tokenizers is not installed") from None
    try:
        tokenizer = Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower
        raise ArtifactError(file, f"its tokenizer cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokenize(texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        return [np.array(encoding.ids, dtype=np.int64) for encoding in tokenizer.encode_batch_fast(list(texts))]

    return tokenize


def find_unknown(definition: str) -> int | None:
    """Return the id that a tokenizer gives to everything it does not know; None if it has no such id.

    Args:
        definition: the JSON of the `tokenizers` library, known to be readable.
    """
    model = json.loads(definition)["model"]
    vocabulary = model.get("vocab", {})
    unknown: int | None = model.get("unk_id")  # of Unigram; the others name it
    return vocabulary.get(model.get("unk_token")) if isinstance(vocabulary, dict) else unknown
