"""What an encoder is made of."""

from dataclasses import dataclass

from model.encoder.pooling import Pooling
from model.encoder.recurrent import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What an encoder is made of; with the weights, all that an export needs.

    Attributes:
        features: F, the numbers in a step; None where steps are token ids.
        vocabulary: V, the number of token ids, 0 (padding) included; None where steps are numbers.
        embedding: E, the numbers a token becomes; the fourth root of V, rounded down, if it is None. A recipe that does
            not state it gets more: see `model.training.defaults`.
        cell: `lstm`, `gru` or `rnn` (tanh).
        reset_after: of a GRU: the reset gate acts after the recurrent product, as in torch, or before it, as in
            TensorFlow 1.
        bidirectional: read each sequence backwards too.
        hidden: H, units in each direction of each layer.
        layers: each reads the whole output of the one below.
        dropout: share of units dropped in training only: of embedded tokens, between layers and before pooling.
        standardize: scale features by a mean and standard deviation fitted on the training sequences.
        deltas: steps on each side over which the slope of each feature is measured, to stand beside the features; 0
            for no slopes, 1 for the central difference.
        pooling: how steps become one vector; see `model.encoder.pooling`.
        projection: P, the numbers a linear map without bias makes of the pooled ones; None for no such map.
        normalize: scale embeddings to L2 norm 1; a zero vector stays zero.
    """

    features: int | None = None
    vocabulary: int | None = None
    embedding: int | None = None
    cell: Cell = "lstm"
    reset_after: bool = True
    bidirectional: bool = True
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.0
    standardize: bool = True
    deltas: int = 0
    pooling: Pooling = "mean"
    projection: int | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        """Refuse what no encoder can be."""
        if (self.features is None) == (self.vocabulary is None):
            raise ValueError("an encoder reads either features or token ids of a vocabulary: give one of the two")
        for name in ("features", "embedding", "hidden", "layers", "projection", "deltas"):
            value, least = getattr(self, name), 0 if name == "deltas" else 1
            if value is not None and not (isinstance(value, int) and value >= least):
                raise ValueError(f"encoder {name} is {value!r}: it must be an integer of at least {least}")
        if self.vocabulary is not None and self.vocabulary < 2:
            raise ValueError(f"encoder vocabulary is {self.vocabulary}: it must be at least 2, padding and a token")
        if self.embedding is not None and self.vocabulary is None:
            raise ValueError("encoder embedding is for token ids, and this encoder reads features")
        if self.deltas and self.features is None:
            raise ValueError("encoder deltas is for features, and this encoder reads token ids")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"encoder dropout is {self.dropout}: it must be in [0, 1)")
        for name, choices in (("cell", ("lstm", "gru", "rnn")), ("pooling", Pooling.__args__)):  # type: ignore[attr-defined]
            if getattr(self, name) not in choices:
                raise ValueError(f"encoder {name} is {getattr(self, name)!r}: it must be one of {', '.join(choices)}")

    @property
    def step_size(self) -> int:
        """I, the numbers that reach the first layer at each step: F, with their slopes 2F, or E."""
        if self.features is not None:
            return self.features * (2 if self.deltas else 1)
        return self.embedding or max(1, int((self.vocabulary or 0) ** 0.25))

    def require_state(self) -> None:
        """Refuse to start sequences from a state if that would not carry on what an earlier part of them began.

        Raises:
            ValueError: the encoder reads slopes.
        """
        if self.deltas:
            raise ValueError(
                "an encoder with deltas takes no initial state: the slope at the end of one part needs the first steps "
                "of the next part, which have not come yet"
            )

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """W, the numbers in a layer's output at each step."""
        return self.directions * self.hidden

    @property
    def pooled(self) -> int:
        """The numbers that pooling makes of all steps: W for each of its parts."""
        return self.width * len(self.pooling.split("+"))

    @property
    def dim(self) -> int:
        """D, the numbers in an embedding."""
        return self.projection or self.pooled
