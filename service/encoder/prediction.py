"""What a graph's `logits` mean: the class of a sequence, a number about it, or the token that comes next."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from service.encoder.manifest import Manifest, Prediction
from service.errors import ArtifactError

SHOWN_TOKENS = 10  # of a vocabulary, the likeliest: all of them would be thousands of numbers a sequence
SCORE_BYTES = 20  # that a score takes in JSON, its label apart, or somewhat more
TOKEN_BYTES = 30  # that a token's label takes there


class Predictor:
    """Says in the words of its task what a model predicts.

    Attributes:
        size: K, the logits of a sequence.
        row_bytes: that the prediction of one sequence takes in JSON, or somewhat more.
    """

    def __init__(self, meaning: Prediction, size: int, name_token: Callable[[int], str] = str) -> None:
        """Take what a manifest says.

        Args:
            meaning: what the logits are.
            size: K.
            name_token: from a token's id to its label.
        """
        self.size = size
        self._kind = meaning.kind
        self._labels = meaning.labels
        self._name_token = name_token
        shown = SHOWN_TOKENS * TOKEN_BYTES if self._kind == "token" else sum(map(_measure, self._labels))
        self.row_bytes = shown + SCORE_BYTES * (1 + min(size, SHOWN_TOKENS if self._kind == "token" else size))

    def describe(self, logits: npt.NDArray[np.float32]) -> Sequence[Any]:
        """Say what is predicted for n sequences.

        Args:
            logits: `(n, K)`.

        Returns:
            n numbers; or n times the likeliest `label`, and `scores`: the probability of each label, the likeliest
            first for tokens, of which only the likeliest are there.
        """
        if self._kind == "number":
            return [*logits[:, 0]]
        probabilities = soften(logits)
        if self._kind == "class":
            best = logits.argmax(axis=1)
            return [
                {"label": self._labels[place], "scores": dict(zip(self._labels, row, strict=True))}
                for place, row in zip(best, probabilities, strict=True)
            ]
        order = np.argsort(-logits, axis=1, kind="stable")[:, :SHOWN_TOKENS]
        found = []
        for places, row in zip(order, probabilities, strict=True):
            scores = {self._name_token(int(place)): row[place] for place in places}
            found.append({"label": next(iter(scores)), "scores": scores})
        return found


def soften(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the probabilities that logits `(n, K)` stand for."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def read_predictor(manifest: Manifest, size: int | None, file: str) -> Predictor | None:
    """Return what a manifest says that its graph predicts; None if it says nothing.

    Args:
        manifest: the artifact's.
        size: K, of the graph's output `logits`; None if there is no such output.
        file: the artifact's name, for the error.

    Raises:
        ArtifactError: manifest and graph do not fit together.
    """
    meaning = manifest.prediction
    if meaning is None:
        return None
    expected = {"class": len(meaning.labels), "number": 1, "token": manifest.input.vocabulary}[meaning.kind]
    if size is None or size != expected:
        found = "no output logits" if size is None else f"{size} logits"
        raise ArtifactError(
            file, f"its manifest says that it predicts {expected} of a {meaning.kind}, its graph {found}"
        )
    definition = manifest.input.tokenizer
    return Predictor(
        meaning, size, str if definition is None or meaning.kind != "token" else _name_by(definition, file)
    )


def _name_by(definition: str, file: str) -> Callable[[int], str]:
    """Return what names token ids by a tokenizer: an id that it does not have is named by its number."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  # 10 MB that only text encoders need

        tokenizer = Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower; it may be missing, too
        raise ArtifactError(file, f"its tokenizer cannot be read: {error}") from error
    return lambda place: tokenizer.id_to_token(place) or str(place)


def _measure(label: str) -> int:
    return len(orjson.dumps(label))
