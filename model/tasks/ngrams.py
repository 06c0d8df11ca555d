"""What a language model must beat: the frequencies of single tokens, and of pairs of neighbours."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.data.datasets import Steps

Counts = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


class Unigrams:
    """The frequency of each token, with one more than was counted, so that none is impossible.

    Attributes:
        probabilities: `(V,)`; padding has none.
    """

    def __init__(self, sequences: Sequence[Steps], vocabulary: int) -> None:
        """Count.

        Args:
            sequences: n >= 1 arrays of ids `(t_i,)`.
            vocabulary: V, padding included, which is not a token.
        """
        counts = np.bincount(np.concatenate(sequences), minlength=vocabulary) + 1
        counts[0] = 0
        self.probabilities = counts / counts.sum()

    def predict(self, _before: Counts, after: Counts) -> Probabilities:
        """Return the probability of each of `after` `(n,)`, whatever comes before."""
        found: Probabilities = self.probabilities[after]
        return found


class Bigrams:
    """A token given the one before: interpolated Kneser-Ney (Kneser and Ney, 1995; Chen and Goodman, 1999).

    A pair counts D less than it was seen; what that frees goes to a token by the number of different tokens it was
    seen after, itself discounted and interpolated with the uniform distribution. D is n1 / (n1 + 2 n2), from
    the numbers of pairs seen once and twice, so that nothing is tuned.
    """

    def __init__(self, sequences: Sequence[Steps], vocabulary: int) -> None:
        """Count; arguments are those of `Unigrams`."""
        self._vocabulary = vocabulary
        before = np.concatenate([steps[:-1] for steps in sequences])
        after = np.concatenate([steps[1:] for steps in sequences])
        self._pairs, self._seen = np.unique(before * vocabulary + after, return_counts=True)
        self._discount = estimate_discount(self._seen)
        first, second = np.divmod(self._pairs, vocabulary)
        self._context = np.bincount(before, minlength=vocabulary)  # how often each token is followed
        self._followers = np.bincount(first, minlength=vocabulary)  # by how many different ones
        self._fallback = self._continue(np.bincount(second, minlength=vocabulary))

    def _continue(self, predecessors: Counts) -> Probabilities:
        """Return each token's probability by the number of different tokens before it."""
        discount = estimate_discount(predecessors[predecessors > 0])
        freed = discount * np.count_nonzero(predecessors) / max(1, predecessors.sum())
        known = np.maximum(predecessors - discount, 0.0) / max(1, predecessors.sum())
        uniform = np.full(self._vocabulary, (freed or 1.0) / (self._vocabulary - 1))
        uniform[0] = 0.0
        found: Probabilities = known + uniform
        return found

    def predict(self, before: Counts, after: Counts) -> Probabilities:
        """Return the probability of each of `after` `(n,)` following its one of `before` `(n,)`."""
        codes = before * self._vocabulary + after
        places = np.minimum(np.searchsorted(self._pairs, codes), len(self._pairs) - 1)
        seen = np.where(self._pairs[places] == codes, self._seen[places], 0)
        context = self._context[before]
        share = np.where(context > 0, self._discount * self._followers[before] / np.maximum(context, 1), 1.0)
        found: Probabilities = np.maximum(seen - self._discount, 0.0) / np.maximum(context, 1)
        return found + share * self._fallback[after]


def estimate_discount(counts: Counts) -> float:
    """Return n1 / (n1 + 2 n2), from how many things were seen once and twice; 0.5 if nothing was seen once.

    A discount of 0 would leave nothing for what was never seen.
    """
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once else 0.5


def measure_perplexity(model: Unigrams | Bigrams, sequences: Sequence[Steps]) -> float:
    """Return exp of the mean negative log probability of every token but the first of each sequence.

    Args:
        model: what predicts.
        sequences: arrays of ids `(t_i,)`, of which one at least is longer than 1.
    """
    before = np.concatenate([steps[:-1] for steps in sequences])
    after = np.concatenate([steps[1:] for steps in sequences])
    return float(np.exp(-np.log(model.predict(before, after)).mean()))
