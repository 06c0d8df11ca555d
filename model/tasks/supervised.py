"""The tasks that learn a label of each sequence: its class, or a number."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.data.batches import Batch
from model.data.datasets import LabelledSequences
from model.data.splits import cut_folds
from model.encoder.encoder import EncoderOutput, SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.head import FoldedHead, LinearHead
from model.tasks.task import Judgement, Task, run_batches


class SequenceClassifier(Task):
    """Says which class a sequence is of: a linear classifier on its embedding."""

    name = "classification"
    labels = "classes"

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, classes: int) -> None:
        super().__init__(encoder, training, classes)
        self.head = LinearHead(encoder.config.dim, classes, training)
        self._label_smoothing = training.label_smoothing
        weights = torch.ones(classes) if training.class_weights == "balanced" else None
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Score the classes: a padded batch and its lengths `(B,)` to `(B, classes)` logits."""
        logits: Tensor = self.head(self.encoder(sequences, lengths))
        return logits

    def predict(self, encoded: EncoderOutput) -> Tensor:
        """Score the classes: `(B, classes)` logits."""
        logits: Tensor = self.head(encoded.embedding)
        return logits

    def fold_head(self) -> FoldedHead:
        """Return what scores the classes."""
        return FoldedHead("class", *self.head.fold())

    def prepare(self, data: LabelledSequences) -> None:
        """Fit the standardisation, and the class weights if they are asked for.

        A class weighs n / (classes * its count), so that the mean weight of the training sequences is 1.
        """
        super().prepare(data)
        if self.class_weights is not None:
            counts = np.bincount(data.labels, minlength=len(self.class_weights))
            weights = len(data) / (len(counts) * np.maximum(counts, 1))
            self.class_weights.copy_(torch.from_numpy(weights))

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, with smoothed labels and weighted classes if these are asked for."""
        logits = self(self.augment(batch.sequences), batch.lengths)
        return nn.functional.cross_entropy(
            logits, batch.labels, weight=self.class_weights, label_smoothing=self._label_smoothing
        )

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss`, with weighted classes but without smoothing, and `accuracy`."""
        logits = run_batches(self, self, data).float()
        labels = torch.from_numpy(data.labels).to(logits.device)
        loss = nn.functional.cross_entropy(logits, labels, weight=self.class_weights)
        return {"loss": float(loss), "accuracy": float((logits.argmax(dim=1) == labels).double().mean())}

    def judge(self, data: LabelledSequences) -> Judgement:
        """Judge by right and wrong."""
        predicted = run_batches(self, self, data).argmax(dim=1).cpu().numpy()
        return Judgement(predicted, (predicted == data.labels).astype(np.float64), "accuracy")


class SequenceRegressor(Task):
    """Says a number about a sequence, many steps to one: a linear function of its embedding.

    It learns in units of the training targets' standard deviation, whatever their scale.
    """

    name = "regression"
    labels = "numbers"
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int = 0) -> None:
        super().__init__(encoder, training, _classes)
        self.head = LinearHead(encoder.config.dim, 1, training)
        self._shrink_folds = training.shrink_folds
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Predict in the targets' own units: a padded batch and its lengths `(B,)` to `(B,)`."""
        return self._rescale(self.encoder(sequences, lengths))[:, 0]

    def predict(self, encoded: EncoderOutput) -> Tensor:
        """Predict in the targets' own units: `(B, 1)`."""
        return self._rescale(encoded.embedding)

    def fold_head(self) -> FoldedHead:
        """Return what predicts a number; the scaling of the targets is undone in it."""
        weight, bias = self.head.fold()
        mean, std = float(self.target_mean), float(self.target_std)
        return FoldedHead("number", weight * std, bias * std + mean, unit=min(1.0, std))

    def prepare(self, data: LabelledSequences) -> None:
        """Fit the standardisation of features and targets."""
        super().prepare(data)
        targets = data.labels.astype(np.float64)
        self.target_mean.fill_(targets.mean())
        self.target_std.fill_(targets.std() or 1.0)  # one target for all is predicted, not divided by zero

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error in standardised units."""
        errors: Tensor = self(self.augment(batch.sequences), batch.lengths) - batch.labels
        return nn.functional.mse_loss(errors / self.target_std, torch.zeros_like(errors))

    def calibrate(self, data: LabelledSequences, train_on: Callable[[LabelledSequences], Task]) -> dict[str, float]:
        """Draw predictions to the mean of the targets, as far as those of held-out sequences miss.

        Each part of the sequences is predicted by a regressor that learns from all others. The factor fits the
        deviations from the mean that they predict to the true ones, and becomes part of the head's weights.

        Returns:
            `shrunk_to`, what is left of a predicted deviation, from 0 (the mean is always said) to 1.
        """
        if not self._shrink_folds:
            return {}
        predicted, true = np.zeros(len(data)), np.zeros(len(data))
        folds = cut_folds(len(data), data.labels, self._shrink_folds)
        for fold in (fold for fold in folds if 0 < len(fold) < len(data)):
            held_out = data.subset(fold)
            other = train_on(data.subset(np.setdiff1d(np.arange(len(data)), fold)))
            assert isinstance(other, SequenceRegressor)  # noqa: S101 - it is trained as this one was
            mean = float(other.target_mean)
            predicted[fold], true[fold] = other.judge(held_out).predicted - mean, held_out.labels - mean
        power = predicted @ predicted
        factor = float(np.clip(predicted @ true / power, 0.0, 1.0)) if 0.0 < power < np.inf else 0.0
        with torch.no_grad():
            self.head.weight.mul_(factor)
            self.head.bias.mul_(factor)
        return {"shrunk_to": factor}

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss` in standardised units, `mse`, `mae`, and `r2`, the share of the variance explained."""
        targets = data.labels.astype(np.float64)
        errors = self._predict(data) - targets
        mse, variance = float(np.mean(errors**2)), float(targets.var())
        return {
            "loss": mse / float(self.target_std) ** 2,
            "mse": mse,
            "mae": float(np.mean(np.abs(errors))),
            "r2": 1.0 - mse / variance if variance else float("nan"),
        }

    def judge(self, data: LabelledSequences) -> Judgement:
        """Judge by the absolute error."""
        predicted = self._predict(data)
        return Judgement(predicted, np.abs(predicted - data.labels.astype(np.float64)), "mean absolute error")

    def _rescale(self, embeddings: Tensor) -> Tensor:
        outputs: Tensor = self.head(embeddings)
        return outputs.float() * self.target_std + self.target_mean

    def _predict(self, data: LabelledSequences) -> npt.NDArray[np.float32]:
        predictions: npt.NDArray[np.float32] = run_batches(self, self, data).cpu().numpy()
        return predictions
