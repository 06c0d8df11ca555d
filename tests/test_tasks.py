"""Heads, losses and augmentation."""

import numpy as np
import torch

from model.config import TrainConfig
from model.data import SequenceSet
from model.datasets import LabelledSequences
from model.encoder import EncoderConfig, SequenceEncoder
from model.tasks import Augmentation, SequenceClassifier


def test_an_offset_shifts_a_sequence_as_a_whole() -> None:
    """An offset is one number a feature for all steps of a sequence, in units of the feature's deviation."""
    torch.manual_seed(0)
    std = torch.tensor([1.0, 100.0])
    shifted = Augmentation(offset=1.0)(torch.zeros(500, 4, 2), std)
    assert torch.equal(shifted, shifted[:, :1].expand_as(shifted))
    # The deviation of 500 draws is within 15 % of the true one in all but freak cases; the seed is fixed.
    torch.testing.assert_close(shifted[:, 0].std(dim=0), std, rtol=0.15, atol=0)


def test_noise_is_drawn_for_every_number() -> None:
    """Noise differs from step to step, in units of the feature's deviation."""
    torch.manual_seed(0)
    std = torch.tensor([1.0, 100.0])
    noise = Augmentation(noise=0.5)(torch.zeros(20, 50, 2), std)
    torch.testing.assert_close(noise.flatten(0, 1).std(dim=0), 0.5 * std, rtol=0.15, atol=0)


def test_labels_are_smoothed_in_training_only() -> None:
    """A perfect prediction costs nothing in evaluation, and something in training."""
    model = SequenceClassifier(
        SequenceEncoder(EncoderConfig(features=1, hidden=1)), TrainConfig(label_smoothing=0.1), 2
    )
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([100.0, 0.0]))
    data = LabelledSequences([np.zeros((3, 1), np.float32)], np.array([0]))
    assert model.measure(data) == {"loss": 0.0, "accuracy": 1.0}
    assert model.training_loss(SequenceSet(data)[[0]]) > 1
