"""From texts to token ids, with the tokenizer a text encoder carries in its manifest."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.errors import ArtifactError
from service.sequences import InputSpec
from service.session import EncoderSession

Tokenize: TypeAlias = Callable[[Sequence[str]], list[npt.NDArray[np.int64]]]


def describe_input(session: EncoderSession) -> InputSpec:
    """Say what a session reads, texts included where its manifest carries a tokenizer.

    Raises:
        ArtifactError: the tokenizer cannot be had.
    """
    definition = None if session.manifest is None else session.manifest.input.tokenizer
    return InputSpec(
        features=session.features,
        vocabulary=session.vocabulary,
        tokenize=None if definition is None else read_tokenizer(definition, session.file),
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
        ArtifactError: the definition is none, or the library is not installed.
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
