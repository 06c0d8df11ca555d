"""The language model: the next token of a text, from all before it."""

import numpy as np
import torch
from torch import Tensor, nn

from model.data.batches import Batch
from model.data.datasets import Dataset, LabelledSequences
from model.encoder.encoder import EncoderOutput, SequenceEncoder
from model.encoder.recurrent import valid_mask
from model.tasks.config import TrainConfig
from model.tasks.head import FoldedHead
from model.tasks.ngrams import Bigrams, Unigrams, measure_perplexity
from model.tasks.task import Task, run_batches


class LanguageModel(Task):
    """Scores what token comes next, at every step: a linear function of the encoder's output there.

    It follows Zaremba, Sutskever and Vinyals (2014): stacked one-directional LSTMs with dropout between layers and
    before the head. If the encoder's output is as wide as its token embedding, the head scores with the embedding
    itself (Press and Wolf, 2017); else it has weights of its own.

    The scores of a step need nothing but that step of the encoder's output: `steps @ weight.T + bias`, with
    `head.weight` or `encoder.embedding.weight`, and `bias`.
    """

    name = "language-model"
    labels = "none"

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int = 0) -> None:
        super().__init__(encoder, training, _classes)
        config = encoder.config
        if config.vocabulary is None or config.bidirectional:
            raise ValueError("the task language-model needs an encoder of token ids that reads in one direction")
        self.head = None if config.step_size == config.width else nn.Linear(config.width, config.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        if encoder.embedding is not None and self.head is None:  # so that first scores are small
            nn.init.uniform_(encoder.embedding.weight[1:].detach(), -0.1, 0.1)

    def prepare(self, data: LabelledSequences) -> None:
        """Fit the standardisation, and begin with the scores that the frequency of each token gives it."""
        super().prepare(data)
        frequencies = Unigrams(data.sequences, len(self.bias)).probabilities
        with torch.no_grad():
            self.bias[1:] = torch.from_numpy(np.log(frequencies[1:]))

    def score(self, steps: Tensor) -> Tensor:
        """Score the next token: `(..., W)` outputs of the encoder to `(..., V)` logits; padding is never next."""
        bias = self.bias.index_fill(0, torch.zeros(1, dtype=torch.int64, device=self.bias.device), -torch.inf)
        return nn.functional.linear(steps, self._scoring.weight, bias)

    @property
    def _scoring(self) -> nn.Linear | nn.Embedding:
        head = self.encoder.embedding if self.head is None else self.head
        assert head is not None  # noqa: S101 - the constructor made sure of it
        return head

    def predict(self, encoded: EncoderOutput) -> Tensor:
        """Score the token after each sequence's last one: `(B, V)` logits."""
        return self.score(encoded.state.h[:, -1, 0])

    def fold_head(self) -> FoldedHead:
        """Return what scores the next token."""
        weight, bias = (part.detach().cpu().double().numpy() for part in (self._scoring.weight, self.bias.clone()))
        bias[0] = np.finfo(np.float32).min  # padding is never next, and infinity is not an answer
        return FoldedHead("token", weight, bias)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Return each row's negative log likelihood and the tokens it is over: `(B, T)` ids to `(B, 2)`."""
        steps = self.encoder.run_layers(sequences, lengths)[-1][:, : sequences.shape[1] - 1]
        is_predicted = valid_mask(lengths - 1, steps.shape[1])  # (B, T - 1)
        scores = self.score(steps[is_predicted])  # (predicted tokens, V)
        losses = nn.functional.cross_entropy(scores.float(), sequences[:, 1:][is_predicted], reduction="none")
        by_step = torch.zeros(is_predicted.shape, device=losses.device).masked_scatter(is_predicted, losses)
        return torch.stack([by_step.sum(dim=1), is_predicted.sum(dim=1)], dim=1)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the tokens predicted."""
        losses, tokens = self(batch.sequences, batch.lengths).sum(dim=0).unbind()
        mean: Tensor = losses / tokens.clamp(min=1)
        return mean

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss`, nats a token, and `perplexity`, its exponential; first tokens are given, not predicted."""
        losses, tokens = run_batches(self, self, data).double().sum(dim=0)
        loss = losses / tokens.clamp(min=1)
        return {"loss": float(loss), "perplexity": float(loss.exp())}

    def measure_baselines(self, dataset: Dataset) -> dict[str, float]:
        """Return the perplexity of the test tokens by counted tokens and pairs, those of all training sequences."""
        vocabulary = self.encoder.config.vocabulary or 0
        train, test = dataset.train.sequences, dataset.test.sequences
        return {
            "unigram_perplexity": measure_perplexity(Unigrams(train, vocabulary), test),
            "bigram_perplexity": measure_perplexity(Bigrams(train, vocabulary), test),
        }
