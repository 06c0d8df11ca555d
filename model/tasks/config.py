"""How an encoder is trained, on any task."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How an encoder is trained.

    Attributes:
        epochs: passes over the training sequences, at most.
        batch_size: sequences in a batch.
        pool_batches: batches cut from one length-sorted pool; more pad less, fewer mix lengths more.
        learning_rate: the peak of the one-cycle schedule (Smith, 2018) that AdamW follows.
        weight_decay: AdamW's.
        embedding_rate: the learning rate of token embeddings, as a multiple of `learning_rate`.
        label_smoothing: share of each target class spread over all classes.
        class_weights: `balanced` weighs a class in the loss by the inverse of its frequency.
        head_dropout: share of an embedding's numbers dropped in training before the head of a classifier or regressor.
        head_norm: then normalise each of these numbers over the batch (BatchNorm); what is served is unchanged.
        shrink_folds: of a regressor: draw its predictions to the mean of the targets, as far as is best for sequences
            that are held out of this many more trainings, a part of all of each. 0 for none.
        noise: added to every number; see `model.tasks.task.Augmentation`.
        offset: added throughout a sequence; see `model.tasks.task.Augmentation`.
        neighbours: of self-supervision: sequences of a batch belong together, as two views of one do, if each is among
            this many most similar ones of the other. 0 for none; at most half of a small batch.
        validation_share: held out of training to stop it early; of each class, if there are classes. 0 holds out
            nothing, for sets too small to spare any: the epoch that is best on the training sequences is kept.
        patience: epochs without a better validation metric before training stops.
        precision: of the arithmetic in training, as Lightning Fabric names it; weights stay float32.
        seed: of initial weights, batches, augmentation and the split.
        shuffle_frames: permute the steps of every sequence, in training and test: a control.
    """

    epochs: int = 60
    batch_size: int = 32
    pool_batches: int = 8
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    embedding_rate: float = 1.0
    label_smoothing: float = 0.1
    class_weights: Literal["balanced"] | None = None
    head_dropout: float = 0.0
    head_norm: bool = False
    shrink_folds: int = 0
    noise: float = 0.0
    offset: float = 0.0
    neighbours: int = 0
    validation_share: float = 0.1
    patience: int = 30
    precision: Precision = "32-true"
    seed: int = 0
    shuffle_frames: bool = False

    def __post_init__(self) -> None:
        """Refuse what no training can do."""
        least = {"epochs": 1, "batch_size": 1, "pool_batches": 1, "patience": 1, "neighbours": 0}
        for name, fewest in least.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= fewest):
                raise ValueError(f"training {name} is {value!r}: it must be an integer of at least {fewest}")
        if not isinstance(self.shrink_folds, int) or self.shrink_folds < 0 or self.shrink_folds == 1:
            raise ValueError(
                f"training shrink_folds is {self.shrink_folds!r}: it must be 0, or an integer of 2 or more"
            )
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(f"training validation_share is {self.validation_share}: it must be in [0, 1)")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"training label_smoothing is {self.label_smoothing}: it must be in [0, 1]")
        if not self.learning_rate > 0.0:
            raise ValueError(f"training learning_rate is {self.learning_rate}: it must be above 0")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ValueError(f"training head_dropout is {self.head_dropout}: it must be in [0, 1)")
        if self.precision not in (known := get_args(Precision)):
            raise ValueError(f"training precision is {self.precision!r}: it must be one of {', '.join(known)}")
        if self.class_weights not in (None, "balanced"):
            raise ValueError(f"training class_weights is {self.class_weights!r}: it must be null or 'balanced'")
