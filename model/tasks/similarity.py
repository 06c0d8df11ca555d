"""Sentence similarity: how alike two sequences are, by the cosine of their embeddings."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.data.batches import Batch
from model.data.datasets import Dataset, LabelledSequences, Steps
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.task import Judgement, Task, run_batches

SIF = 1e-3  # a, of the weights a / (a + p) that Arora, Liang and Ma (2017) give words of probability p

Embeddings = npt.NDArray[np.float64]


class SentenceSimilarity(Task):
    """Says how alike the two sequences of a pair are: a linear function of the cosine of their embeddings.

    One encoder reads both (Siamese: Mueller and Thyagarajan, 2016). It begins as an average of word vectors, which
    Wieting and Gimpel (2017) found recurrent encoders of sentences to need: tokens weigh as in SIF (Arora, Liang and
    Ma, 2017), and LSTM gates begin almost forgetting, so that a step's output is a function of its token mostly.

    Whoever holds embeddings needs nothing else: their cosine ranks pairs as this task does.
    """

    name = "similarity"
    labels = "pairs"
    monitor = "spearman"
    monitor_mode = "max"
    lowest: Tensor
    span: Tensor

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int = 0) -> None:
        super().__init__(encoder, training, _classes)
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.register_buffer("lowest", torch.zeros(()))
        self.register_buffer("span", torch.ones(()))

    def prepare(self, data: LabelledSequences) -> None:
        """Fit the range of labels, of which a cosine of 0 begins as the least and of 1 as the most; set the weights."""
        super().prepare(data)
        self.lowest.fill_(float(data.labels.min()))
        self.span.fill_(float(np.ptp(data.labels)) or 1.0)
        begin_as_average(self, data)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Return the cosines of pairs, `(B,)`: rows as in a `Batch` of pairs, `(2B, T)` and `(2B,)`."""
        first, second = self.encoder(sequences, lengths).chunk(2)
        return nn.functional.cosine_similarity(first, second)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error, the range of the training labels being 1."""
        cosines = self(self.augment(batch.sequences), batch.lengths)
        return self._measure_error(cosines, batch.labels)

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss`, and the rank and linear correlation of cosines and labels: `spearman` and `pearson`."""
        cosines = compare_pairs(self, data)
        with torch.no_grad():
            loss = self._measure_error(cosines, torch.from_numpy(data.labels).to(cosines.device))
        return {"loss": float(loss), **correlate(cosines.cpu().numpy(), data.labels)}

    def measure_baselines(self, dataset: Dataset) -> dict[str, float]:
        """Return what averages of pretrained vectors reach; see `measure_averages`."""
        return measure_averages(dataset)

    def judge(self, data: LabelledSequences) -> Judgement:
        """Judge by the absolute error of the score."""
        with torch.no_grad():
            scores = self._scale(compare_pairs(self, data)) * self.span + self.lowest
        predicted = scores.cpu().numpy()
        return Judgement(predicted, np.abs(predicted - data.labels.astype(np.float64)), "mean absolute error")

    def _scale(self, cosines: Tensor) -> Tensor:
        return self.scale * cosines.float() + self.offset

    def _measure_error(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self._scale(cosines), (labels - self.lowest) / self.span)


def compare_pairs(task: Task, data: LabelledSequences) -> Tensor:
    """Return the cosines of the embeddings of n pairs, `(n,)`."""
    first, second = (
        run_batches(task, task.encoder, LabelledSequences(sequences, None))
        for sequences in (data.sequences, data.partners or [])
    )
    return nn.functional.cosine_similarity(first.float(), second.float())


def begin_as_average(task: Task, data: LabelledSequences) -> None:
    """Let a task's embeddings begin as averages of its token vectors, which SIF weighs by their share of `data`."""
    if task.encoder.embedding is not None:
        sequences = [*data.sequences, *(data.partners or ())]
        task.set_token_vectors(weigh_tokens(task.encoder.embedding.weight.detach(), sequences))
    if task.encoder.config.cell == "lstm":
        start_as_average(task.encoder)


def measure_averages(dataset: Dataset) -> dict[str, float]:
    """Return the Spearman correlation of averaged pretrained vectors, plain and by SIF; nothing without vectors.

    SIF takes word frequencies and the common component, which it removes, from the training sequences.
    """
    if dataset.vectors is None or dataset.test.partners is None:
        return {}
    vectors = dataset.vectors.astype(np.float64)
    train = [*dataset.train.sequences, *(dataset.train.partners or ())]
    weighted = vectors * sif_weights(train, len(vectors))[:, None]
    _, _, axes = np.linalg.svd(average(weighted, train), full_matrices=False)
    results = {}
    for name, table, common in (("mean", vectors, axes[:0]), ("sif", weighted, axes[:1])):
        first, second = average(table, dataset.test.sequences), average(table, dataset.test.partners)
        cosines = measure_cosines(first - first @ common.T @ common, second - second @ common.T @ common)
        results[f"{name}_vectors_spearman"] = correlate(cosines, dataset.test.labels)["spearman"]
    return results


def start_as_average(encoder: SequenceEncoder) -> None:
    """Set the gates of fresh LSTM layers so that a step's output depends on its token, and hardly on others.

    Input and output gates begin open and forget gates nearly closed, with recurrent weights near zero; the cell's
    input is a random projection of the token, small enough for tanh to be almost linear.
    """
    hidden = encoder.config.hidden
    gates = slice(0, hidden), slice(hidden, 2 * hidden), slice(2 * hidden, 3 * hidden), slice(3 * hidden, 4 * hidden)
    into, forget, cell, out = gates  # in torch's order
    with torch.no_grad():
        for name, weights in encoder.layers.named_parameters():
            if "weight_hh" in name:
                weights.mul_(0.1)
            elif "weight_ih" in name:
                weights.mul_(0.3)
                weights[cell].normal_(std=0.3 / weights.shape[1] ** 0.5)
            else:
                weights.zero_()
                if "bias_ih" in name:
                    weights[into], weights[forget], weights[out] = 1.0, -1.0, 1.0


def weigh_tokens(vectors: Tensor, sequences: list[Steps]) -> npt.NDArray[np.float32]:
    """Centre and scale token vectors `(V, E)` to unit deviation, and weigh them as SIF does, by their frequency.

    The centre is the mean over the tokens of `sequences`; padding and unknown words are left alone.
    """
    table = vectors.numpy().astype(np.float64)
    frequencies = np.bincount(np.concatenate(sequences), minlength=len(table)) / sum(map(len, sequences))
    known = table.any(axis=1)
    table[known] -= frequencies[known] @ table[known] / max(frequencies[known].sum(), np.finfo(np.float64).tiny)
    table[known] /= table[known].std()
    weighted: npt.NDArray[np.float32] = (table * sif_weights(sequences, len(table))[:, None]).astype(np.float32)
    return weighted


def sif_weights(sequences: list[Steps], vocabulary: int) -> npt.NDArray[np.float64]:
    """Return a / (a + p) for each token id, `(V,)`, with p its share of all tokens of `sequences`."""
    counts = np.bincount(np.concatenate(sequences), minlength=vocabulary)
    weights: npt.NDArray[np.float64] = SIF / (SIF + counts / counts.sum())
    return weights


def average(vectors: Embeddings, sequences: list[Steps]) -> Embeddings:
    """Average the vectors `(V, E)` of each sequence's tokens: `(n, E)`; tokens without one, zeros, do not count."""
    known = np.any(vectors != 0, axis=1, keepdims=True)  # (V, 1)
    sums = np.stack([vectors[steps].sum(axis=0) for steps in sequences])
    counts = np.stack([known[steps].sum(axis=0) for steps in sequences])  # (n, 1)
    averages: Embeddings = sums / np.maximum(counts, 1)
    return averages


def measure_cosines(first: Embeddings, second: Embeddings) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of `(n, E)` with its like, `(n,)`; 0 if one of them is zero."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: npt.NDArray[np.float64] = (first * second).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosines


def correlate(scores: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> dict[str, float]:
    """Return the `spearman` and `pearson` correlations of `(n,)` with `(n,)`; 0 if one of them never varies."""
    if np.ptp(scores) == 0 or np.ptp(labels) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    from scipy.stats import pearsonr, spearmanr  # noqa: PLC0415 - an export needs no judgement

    return {
        "spearman": float(spearmanr(scores, labels).statistic),
        "pearson": float(pearsonr(scores, labels).statistic),
    }
