"""Distillation: a small encoder learns to give a text the vector that a large one, its teacher, gives it."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.data.batches import Batch, in_order
from model.data.datasets import Dataset, LabelledSequences
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.similarity import begin_as_average, compare_pairs, correlate, measure_averages
from model.tasks.task import Task, run_batches

PENALTY = 1e-3

Numbers: TypeAlias = npt.NDArray[np.number]


class DistilledStudent(Task):
    """Gives a sequence its teacher's vector: same direction, and the same cosines with all others of its batch.

    The direction is what a caller gets; the cosines are what a caller does with it, and what a student that cannot
    reach the directions should keep (relational distillation: Park et al., 2019). It begins as an average of word
    vectors, as `model.tasks.similarity` does, and its projection as what makes the teacher's vectors of such averages
    best: so it begins with all that word vectors alone can tell. Nothing but the teacher's vectors is learned from; the
    labels of pairs, which may be what it is tested on, are compared with cosines.
    """

    name = "distil"
    labels = "vectors"

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int = 0) -> None:
        super().__init__(encoder, training, _classes)
        self._group = training.batch_size

    def prepare(self, data: LabelledSequences) -> None:
        """Begin as an average of token vectors, projected as near to the teacher's as a linear map can.

        Raises:
            ValueError: the teacher's vectors are of another size than the student's.
        """
        super().prepare(data)
        if data.labels.shape[1] != self.encoder.config.dim:
            sizes = f"{self.encoder.config.dim} numbers, and its teacher's {data.labels.shape[1]}"
            raise ValueError(f"a student's embeddings have {sizes}: leave the encoder's projection to the task")
        begin_as_average(self, data)
        if self.encoder.projection is not None:
            pooled = run_batches(self, self._pool, data).cpu().numpy()
            with torch.no_grad():
                self.encoder.projection.weight.copy_(torch.from_numpy(fit_ridge(pooled, data.labels).T))

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the loss over the batch's sequences; see `compare_with_teacher`."""
        embeddings = self.encoder(self.augment(batch.sequences), batch.lengths)
        return compare_with_teacher(embeddings, batch.labels)

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss` and the mean cosine to the teacher, `cosine`; of pairs, `spearman` and `pearson`.

        The loss is over groups of `batch_size` sequences, as in training.
        """
        if data.partners is not None:
            return correlate(compare_pairs(self, data).cpu().numpy(), data.labels)
        embeddings = run_batches(self, self.encoder, data).float()
        taught = torch.from_numpy(data.labels).to(embeddings.device)
        loss = 0.0
        for rows in in_order(len(data), self._group):
            loss += float(compare_with_teacher(embeddings[rows], taught[rows])) * len(rows) / len(data)
        cosine = nn.functional.cosine_similarity(embeddings, taught).mean()
        return {"loss": loss, "cosine": float(cosine)}

    def measure_baselines(self, dataset: Dataset) -> dict[str, float]:
        """Return what averages of the word vectors it begins with reach on pairs; nothing of other test sequences."""
        return measure_averages(dataset)

    def _pool(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Return what the projection reads: `(B, W)`."""
        return self.encoder.pool_steps(self.encoder.run_layers(sequences, lengths)[-1], lengths)


def fit_ridge(found: Numbers, wanted: Numbers) -> Numbers:
    """Return the matrix `(W, D)` that maps `(n, W)` nearest to `(n, D)`, of the rows' directions alone.

    Ridge regression, its penalty `PENALTY` of the mean square of a number of `found`.
    """
    known, asked = (
        rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
        for rows in (found, wanted)
    )
    squares = known.T @ known
    penalty = PENALTY * np.trace(squares) / len(squares) * np.eye(len(squares))
    return np.linalg.solve(squares + penalty, known.T @ asked)


def compare_with_teacher(embeddings: Tensor, taught: Tensor) -> Tensor:
    """Return 1 - the cosine to the teacher, plus the squared error of the cosines among all n sequences; both means.

    Args:
        embeddings: `(n, D)`, the student's.
        taught: `(n, D)`, the teacher's.
    """
    found, wanted = nn.functional.normalize(embeddings.float(), dim=1), nn.functional.normalize(taught, dim=1)
    apart = 1 - (found * wanted).sum(dim=1).mean()
    return apart + nn.functional.mse_loss(found @ found.T, wanted @ wanted.T)
