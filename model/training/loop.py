"""The training loop: batches, epochs, the learning rate, early stopping, and what a resumed training goes on from.

Lightning Fabric keeps devices and precision; all else is on this page.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from model.data.batches import LengthBuckets, SequenceSet, mix_seed
from model.data.datasets import LabelledSequences
from model.tasks.config import TrainConfig
from model.tasks.task import Task
from model.training.progress import Progress
from model.training.run_directory import write_checkpoint, write_metrics

LONGEST_GRADIENT = 1.0  # its norm, over all weights; longer ones are shortened to it
WARM_UP = 0.2  # of all steps


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a training sees.

    Attributes:
        fitting: the sequences to learn from.
        validation: the sequences that stop a training early and choose its best epoch.
    """

    fitting: LabelledSequences
    validation: LabelledSequences


class Objective(nn.Module):
    """A task's loss as Fabric wraps it: a module of rows, since Fabric would round tensors to the precision at once."""

    def __init__(self, task: Task, items: SequenceSet, device: torch.device) -> None:
        super().__init__()
        self._task = task
        self._items = items
        self._device = device

    def forward(self, rows: list[int]) -> Tensor:
        """Return the loss of the sequences in these rows as a batch, a scalar."""
        return self._task.training_loss(self._items[rows].to(self._device))


def fit(
    fabric: Fabric,
    task: Task,
    config: TrainConfig,
    data: TrainingData,
    run: Path,
    checkpoint: dict[str, Any] | None = None,
) -> None:
    """Train a task, and leave it with the weights of its best epoch, in evaluation mode on the CPU.

    A step depends on the seed and its number only, so that a resumed training ends where an unbroken one does. The
    validation sequences are measured after each epoch as a whole, so that a task may have metrics that are not
    averages over batches, and in float32, as the encoder will be served.

    Args:
        fabric: launched.
        task: prepared for the sequences to learn from.
        config: how to train.
        data: what to train and validate on.
        run: the directory for `metrics.csv` and `last.ckpt`.
        checkpoint: the content of `last.ckpt`, to go on from there.
    """
    buckets = LengthBuckets(data.fitting.lengths, config.batch_size, config.seed, config.pool_batches)
    buckets.share(fabric.global_rank, fabric.world_size)
    optimizer, schedule = _make_optimizer(task, config, len(buckets) * config.epochs)
    objective, stepper = fabric.setup(Objective(task, SequenceSet(data.fitting), fabric.device), optimizer)
    history: list[dict[str, float]] = []  # the metrics of each epoch
    best: dict[str, Tensor] = {}  # the weights of the best epoch
    kept: dict[str, Any] = {
        "task": task,
        "optimizer": optimizer,
        "schedule": schedule,
        "scaling": fabric.strategy.precision,
    }
    if checkpoint is not None:
        history, best = checkpoint["history"], checkpoint["best"]
        for name, part in kept.items():
            part.load_state_dict(checkpoint[name])
    progress = Progress(config.epochs, is_first=fabric.is_global_zero)
    while not _is_over(history, task, config):
        epoch = len(history)
        objective.train()
        losses, count = torch.zeros((), device=fabric.device), 0  # summed over sequences, and how many these are
        batches = progress.watch(buckets.draw(epoch), len(buckets), epoch)
        for number, rows in enumerate(batches, epoch * len(buckets)):
            torch.manual_seed(mix_seed(config.seed, number * fabric.world_size + fabric.global_rank))
            loss = objective(rows)
            stepper.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(objective, stepper, max_norm=LONGEST_GRADIENT, error_if_nonfinite=False)
            stepper.step()
            schedule.step()
            losses += loss.detach() * len(rows)
            count += len(rows)
        losses, count = fabric.all_reduce((losses, torch.tensor(count, device=fabric.device)), reduce_op="sum")
        measured = fabric.broadcast(task.measure(data.validation) if fabric.is_global_zero else {})
        metrics = {f"val_{name}": float(value) for name, value in measured.items()}
        history.append({"train_loss": float(losses / count), **metrics})
        if _best_epoch(history, task) == epoch:
            best = {name: weights.detach().cpu().clone() for name, weights in task.state_dict().items()}
        if fabric.is_global_zero:
            write_metrics(run, history)
            states = {name: part.state_dict() for name, part in kept.items()}
            write_checkpoint(run, {"history": history, "best": best, **states})
        progress.tell(epoch, history[-1])
    progress.end()
    task.cpu().eval().load_state_dict(best)


def _make_optimizer(
    task: Task, config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW under a one-cycle schedule of so many steps."""
    embedding = [] if task.encoder.embedding is None else list(task.encoder.embedding.parameters())
    others = [weights for weights in task.parameters() if all(weights is not one for one in embedding)]
    rates = [config.learning_rate, config.learning_rate * config.embedding_rate][: 2 if embedding else 1]
    groups = [{"params": part, "lr": rate} for part, rate in zip((others, embedding), rates, strict=False)]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    steps += steps == round(1 / WARM_UP)  # whose warm-up of one step torch would divide by zero
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=WARM_UP)


def _is_over(history: list[dict[str, float]], task: Task, config: TrainConfig) -> bool:
    """Say whether training ends here: after the last epoch, too long after the best one, or if the metric is lost."""
    if not history:
        return False
    waited = len(history) - 1 - _best_epoch(history, task)
    is_lost = not math.isfinite(history[-1][f"val_{task.monitor}"])
    return len(history) >= config.epochs or waited >= config.patience or is_lost


def _best_epoch(history: list[dict[str, float]], task: Task) -> int:
    """Return the epoch with the best validation metric, the first of equals; NaN is never better than a number."""
    scores = [metrics[f"val_{task.monitor}"] for metrics in history]
    return scores.index(min(scores) if task.monitor_mode == "min" else max(scores))
