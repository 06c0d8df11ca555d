"""Self-supervised training: sequences without labels teach an encoder by what two views of each have in common.

The method is SimCLR (Chen et al., 2020) on sub-sequences. Each sequence of a batch is seen twice, as two random crops
of it, changed at random; the encoder learns to tell which views belong together. If the recipe asks for neighbours,
the views of sequences that the encoder finds alike belong together, too (after NNCLR, Dwibedi et al., 2021). Nothing in
it depends on what a step is, so that numbers and token ids, any encoder and any pooling learn alike.
`docs/decisions/training.md` has what else was tried.
"""

import torch
from torch import Tensor, nn

from model.data.batches import Batch, in_order
from model.data.datasets import LabelledSequences
from model.encoder.encoder import PAD_ID, SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.task import Task, run_batches

SHORTEST_CROP = 0.5  # of a sequence
HIDDEN_SHARE = 0.15  # of the tokens of a view; numbers are changed by noise and offset instead
TEMPERATURE = 0.5
VIEW_SIZE = 64  # the numbers that views are compared by; the embedding itself is freed from what the loss discards
MEASURING_SEED = 0  # the same views of the validation sequences after every epoch


def crop(sequences: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a stretch at random out of each sequence, of at least `SHORTEST_CROP` of it and at least one step.

    Args:
        sequences: `(B, T, F)` or `(B, T)`; what stands past a row's length does not matter.
        lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.

    Returns:
        The crops, padded to the longest of them, and their lengths `(B,)`; an empty row stays empty.
    """
    chances = torch.rand(2, len(lengths), device=lengths.device)
    share = SHORTEST_CROP + (1 - SHORTEST_CROP) * chances[0]
    kept = torch.minimum((share * lengths).ceil().long(), lengths)
    starts = (chances[1] * (lengths - kept + 1)).long()
    time = torch.arange(int(kept.max()), device=lengths.device)
    places = (starts[:, None] + time).clamp(max=sequences.shape[1] - 1)  # (B, longest crop)
    rows = torch.arange(len(lengths), device=lengths.device)[:, None]
    return sequences[rows, places], kept


def contrast(first: Tensor, second: Tensor, near: Tensor) -> Tensor:
    """Return SimCLR's NT-Xent loss: cross-entropy of finding what belongs to a view among all other views.

    Args:
        first: `(n, P)`, one view of each sequence, n >= 1.
        second: `(n, P)`, the other.
        near: `(n, n)`, bool, symmetric: the other sequences whose views belong to a sequence's, as its other half does.

    Returns:
        The mean over all 2n views, of each over what belongs to it, a scalar: without neighbours at chance
        log(2n - 1), and 0 for a single sequence.
    """
    chances = (_compare(first, second) / TEMPERATURE).log_softmax(dim=1)
    belongs = near.repeat(2, 2)
    belongs[torch.arange(len(belongs)), _other_halves(len(first), first.device)] = True
    return -(chances.masked_fill(~belongs, 0.0).sum(dim=1) / belongs.sum(dim=1)).mean()


def find_neighbours(embeddings: Tensor, count: int) -> Tensor:
    """Find the pairs of sequences of which each is among the `count` most similar ones of the other.

    Embeddings are compared by cosine, relative to their mean. At most half of the other sequences count as most
    similar: in a small batch, such as the last one of an epoch, all would be neighbours, and none told apart.

    Args:
        embeddings: `(n, D)`, n >= 1.
        count: at least 0.

    Returns:
        `(n, n)`, bool, symmetric; a sequence is not a neighbour of itself.
    """
    directions = nn.functional.normalize(embeddings - embeddings.mean(dim=0), dim=1)
    likeness = (directions @ directions.T).fill_diagonal_(-torch.inf)
    found = likeness.topk(min(count, (len(embeddings) - 1) // 2), dim=1).indices
    is_found = torch.zeros_like(likeness, dtype=torch.bool).scatter_(1, found, value=True)
    return is_found & is_found.T


class SelfSupervised(Task):
    """Learns what makes a sequence itself, without labels; its head serves training alone."""

    name = "selfsupervised"
    labels = "none"

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int = 0) -> None:
        super().__init__(encoder, training, _classes)
        dim = encoder.config.dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, VIEW_SIZE))
        self._group = training.batch_size
        self._neighbours = training.neighbours

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Look at a padded batch and its lengths `(B,)` twice: `(B, 2, VIEW_SIZE)`, each time other views."""
        return torch.stack([self._view(sequences, lengths) for _ in range(2)], dim=1)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the NT-Xent loss over the batch's sequences and their neighbours."""
        near = self._find_neighbours(batch)
        first, second = self(batch.sequences, batch.lengths).unbind(dim=1)
        return contrast(first, second, near)

    def augment(self, sequences: Tensor) -> Tensor:
        """Change numbers as the recipe says; replace tokens `(B, T)` at random by padding's, which says nothing."""
        if sequences.is_floating_point():
            return super().augment(sequences)
        hidden = torch.rand(sequences.shape, device=sequences.device) < HIDDEN_SHARE
        return sequences.masked_fill(hidden, PAD_ID)

    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return `loss`, and `matched`, the share of views whose other half is the most similar of all others.

        Both are over groups of `batch_size` sequences alike in length, and always the same views.
        """
        device = next(self.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(MEASURING_SEED)
            views = run_batches(self, self, data).float()
        embeddings = run_batches(self, self.encoder, data).float() if self._neighbours else views[:, 0]
        order = torch.tensor(data.lengths).argsort(stable=True)
        loss = matched = 0.0
        for rows in in_order(len(data), self._group):
            places = order[rows].to(device)
            first, second = views[places].unbind(dim=1)
            near = find_neighbours(embeddings[places], self._neighbours)
            found = _compare(first, second).argmax(dim=1) == _other_halves(len(rows), device)
            loss += float(contrast(first, second, near)) * len(rows) / len(data)
            matched += float(found.double().mean()) * len(rows) / len(data)
        return {"loss": loss, "matched": matched}

    def _find_neighbours(self, batch: Batch) -> Tensor:
        """Find the neighbours `(B, B)` in a batch by its embeddings as they would be served now."""
        if not self._neighbours:
            return torch.zeros(len(batch.lengths), len(batch.lengths), dtype=torch.bool, device=batch.lengths.device)
        was_training = self.encoder.training
        self.encoder.eval()
        with torch.no_grad():
            embeddings = self.encoder(batch.sequences, batch.lengths).float()
        self.encoder.train(was_training)
        return find_neighbours(embeddings, self._neighbours)

    def _view(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Encode one random view of each sequence for comparison: `(B, VIEW_SIZE)`.

        All draws but the crop's own are of the cropped shape, so that the padding around a batch changes none.
        """
        steps, kept = crop(sequences, lengths)
        compared: Tensor = self.head(self.encoder(self.augment(steps), kept))
        return compared


def _compare(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines `(2n, 2n)` between all views of both `(n, P)`; a view is not compared with itself."""
    views = nn.functional.normalize(torch.cat([first, second]).float(), dim=1)
    cosines = views @ views.T
    return cosines.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)


def _other_halves(count: int, device: torch.device) -> Tensor:
    """Return where each of 2n views, first ones before second ones, has its other half: `(2n,)`."""
    return torch.arange(2 * count, device=device).roll(count)
