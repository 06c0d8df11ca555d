"""A transformer of scikit-learn: sequences in, embeddings out, for pipelines, cross-validation and grid search."""

from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError

from lengthwise_client.adapters import from_sktime
from lengthwise_client.client import TIMEOUT_SECONDS, Client
from lengthwise_client.formats import Array
from lengthwise_client.local import open_local, require_numbers

Given: TypeAlias = Any  # a list of sequences, an array, or a frame


class LengthwiseTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns sequences into embeddings, by a service or by an artifact in this process. It learns nothing.

    ```python
    pipeline = make_pipeline(LengthwiseTransformer(artifact="mine.onnx"), LogisticRegression())
    cross_val_score(pipeline, sequences, labels)
    ```

    It keeps no connection and no session, so that it can be cloned, copied to other processes and pickled; a pickle
    holds the address or the path, never the artifact. Sequences are a list of arrays, `(t_i, F)` or `(t_i,)`; an array
    `(n, t, F)`; a multi-index frame of sktime. If a step is one number, `(n, t)` is n sequences of it, and so is a
    plain frame.

    Attributes:
        n_embedding_: D, the numbers in an embedding.
        model_sha256_: the hash of the artifact that was there at `fit`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        artifact: str | Path | None = None,
        model: str | None = None,
        key: str | None = None,
        normalize: bool = False,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Keep what to ask; nothing is opened.

        Args:
            url: the service's address; None for an artifact in this process.
            artifact: the path of an ONNX file, in place of a service.
            model: the name of the service's model; None for its default.
            key: the key that the service asks for.
            normalize: scale each embedding to L2 norm 1.
            timeout: seconds that a call of the service may take.
        """
        self.url = url
        self.artifact = artifact
        self.model = model
        self.key = key
        self.normalize = normalize
        self.timeout = timeout

    def fit(self, X: Given, y: object = None) -> Self:  # noqa: ARG002, N803 - as scikit-learn calls them
        """Look at the model and at the sequences, and encode nothing.

        Args:
            X: sequences.
            y: passed over.

        Raises:
            ValueError: `url` and `artifact` are both given, or neither; or there is no sequence, or one without steps
                or with NaN.
        """
        sequences = _read(X)
        _require_some(sequences)
        self.n_embedding_, self.model_sha256_, features = self._look()
        require_numbers(_shape(sequences, features))
        return self

    def transform(self, X: Given) -> Array:  # noqa: N803 - as scikit-learn calls it
        """Encode sequences.

        Args:
            X: n sequences.

        Returns:
            Embeddings `(n, D)`, float32.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: a sequence is not as the model reads it, or the model is not the one that was there at `fit`.
        """
        if not hasattr(self, "model_sha256_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit first.")
        sequences = _read(X)
        _require_some(sequences)
        _, sha256, features = self._look()
        if sha256 != self.model_sha256_:
            raise ValueError(f"the model is {sha256[:12]}, and at fit it was {self.model_sha256_[:12]}: fit anew")
        shaped = _shape(sequences, features)
        if self.artifact is None:
            with self._connect() as client:
                return client.encode(shaped, normalize=bool(self.normalize))
        embeddings = open_local(Path(self.artifact)).encode(shaped)
        if not self.normalize:
            return embeddings
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        scaled: Array = embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
        return scaled

    @property
    def _n_features_out(self) -> int:
        return self.n_embedding_

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may expect: it takes sequences, and no matrix of columns."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _connect(self) -> Client:
        return Client(self.url or "", model=self.model, key=self.key, timeout=self.timeout)

    def _look(self) -> tuple[int, str, int | None]:
        """Return D, the artifact's hash, and F or None for token ids."""
        if (self.url is None) == (self.artifact is None):
            raise ValueError("give one of url, of a service, and artifact, of a file")
        if self.artifact is not None:
            encoder = open_local(Path(self.artifact))
            return encoder.dim, encoder.sha256, encoder.features
        with self._connect() as client:
            info = client.info()
        name = self.model or info["default_model"]
        found = next((one for one in info["models"] if name in one["names"]), None)
        if found is None:
            raise ValueError(f"the service at {self.url} has no model {name!r}")
        return found["dim"], found["sha256"], found["features"]


def _read(given: Given) -> list[Any]:
    """Return the sequences in whatever holds them."""
    if hasattr(given, "index") and getattr(given.index, "nlevels", 1) > 1:
        return list(from_sktime(given))
    if hasattr(given, "toarray"):
        raise TypeError("Sparse data was passed, and sequences are dense: use toarray().")
    if hasattr(given, "__array__"):
        given = np.asarray(given)
        if given.ndim < 2 and given.dtype != object:
            raise ValueError(f"Expected 2D array, got one of the shape {given.shape}: Reshape your data.")
        if given.ndim > 1 and not given.shape[1]:
            raise ValueError(f"Found array with 0 feature(s) (shape={given.shape}) while a minimum of 1 is required.")
    return [*given]


def _require_some(sequences: list[Any]) -> None:
    if not sequences:
        raise ValueError("Found array with 0 sample(s): a minimum of 1 is required.")


def _shape(sequences: list[Any], features: int | None) -> list[npt.NDArray[Any]]:
    """Make each sequence an array; numbers in a row are steps of one number if the model reads such steps."""
    arrays = [np.asarray(one) for one in sequences]
    if any(one.dtype.kind == "c" for one in arrays):
        raise ValueError("Complex data not supported: a step is of real numbers.")
    if features is not None:
        arrays = [one.astype(np.float64) if one.dtype == object else one for one in arrays]
    return [one[:, np.newaxis] if features == 1 and one.ndim == 1 else one for one in arrays]
