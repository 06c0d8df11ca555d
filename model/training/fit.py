"""One training: any task, by Lightning, into a run directory."""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from model.data.batches import Batch, LengthBuckets, SequenceSet, mix_seed
from model.data.datasets import Dataset, LabelledSequences
from model.data.splits import split
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.tasks.task import Task, WrongLabels
from model.threads import limit_threads
from model.training.evaluate import evaluate
from model.training.progress import Progress, quiet
from model.training.recipe import DataConfig, Hardware, Recipe
from model.training.run_directory import RunConfig, read_results, resume_run, start_run, write_result


class Training(lightning.LightningModule):
    """One training of a task, as Lightning runs it."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        super().__init__()
        self.task = task
        self._config = config

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of a batch.

        Each step is seeded by its number, so that a resumed training draws what an unbroken one would.
        """
        torch.manual_seed(mix_seed(self._config.seed, self.global_step * self.trainer.world_size + self.global_rank))
        loss = self.task.training_loss(batch)
        size = len(batch.lengths)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return AdamW under a one-cycle schedule."""
        config = self._config
        embedding = [] if self.task.encoder.embedding is None else list(self.task.encoder.embedding.parameters())
        others = [weights for weights in self.parameters() if all(weights is not one for one in embedding)]
        rates = [config.learning_rate, config.learning_rate * config.embedding_rate][: 2 if embedding else 1]
        groups = [{"params": part, "lr": rate} for part, rate in zip((others, embedding), rates, strict=False)]
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rates,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.2,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Validation(Callback):
    """Measures the validation sequences after each epoch, and writes `metrics.csv`, one row an epoch.

    They are measured as a whole, so that a task may have metrics that are no averages over batches, and in float32,
    as the encoder will be served. Epochs that a resumed training repeats replace their old rows.
    """

    def __init__(self, task: Task, data: LabelledSequences, path: Path) -> None:
        self._task = task
        self._validation = data
        self._path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure, log for early stopping and checkpoints, and add the row of the epoch that ended."""
        metrics = {f"val_{name}": value for name, value in self._task.measure(self._validation).items()}
        pl_module.log_dict(metrics, prog_bar=True)
        if not trainer.is_global_zero:
            return
        epoch = pl_module.current_epoch
        table = {"train_loss": float(trainer.callback_metrics["train_loss"]), **metrics}
        rows = self._path.read_text(encoding="utf-8").splitlines()[1:] if self._path.exists() else []
        kept = [row for row in rows if int(row.partition(",")[0]) < epoch]
        kept.append(",".join([str(epoch), *(f"{value:.6g}" for value in table.values())]))
        partial = self._path.with_suffix(".partial")  # a training may be killed at any moment
        partial.write_text("\n".join([",".join(["epoch", *table]), *kept, ""]), encoding="utf-8")
        partial.replace(self._path)


@quiet()
def train(
    run: Path, dataset: Dataset, recipe: Recipe, *, hardware: Hardware | None = None, resume: bool = False
) -> dict[str, float]:
    """Train an encoder on a task, and write the run directory.

    Args:
        run: the directory; made where it is not there.
        dataset: the split; already shuffled where the recipe says so.
        recipe: what is trained, and how.
        hardware: what to train on; by default whatever Lightning finds.
        resume: go on from the directory's `last.ckpt`.

    Returns:
        The metrics on the test sequences, see `evaluate`, and the task's on the validation sequences, with
        `validation_` before their names.

    Raises:
        BrokenRun: there is nothing to resume, or it was started otherwise.
        WrongLabels: the task cannot learn from the data set's labels.
    """
    training, hardware = recipe.training, hardware or Hardware()
    needed = TASKS[recipe.task].labels
    if needed not in ("none", dataset.label_kind):
        raise WrongLabels(recipe.task, needed, dataset)
    lightning.seed_everything(training.seed, verbose=False)
    learned_from = dataset.train.without_labels() if needed == "none" else dataset.train
    fitting, validation = learned_from, dataset.validation
    if validation is None:
        fitting, validation = split(learned_from, training.validation_share, training.seed)
    config = _describe(dataset, fitting, recipe)
    limit_threads(recipe.encoder.hidden)
    task = config.build()
    if dataset.vectors is not None:
        task.set_token_vectors(dataset.vectors)
    task.prepare(fitting)
    module = Training(task, training)
    trainer = lightning.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=training.precision,
        max_epochs=training.epochs,
        callbacks=[
            Validation(task, validation, run / "metrics.csv"),
            *([] if sys.stdout.isatty() else [Progress()]),
            *_watch(run, task, training),
        ],
        logger=False,
        enable_progress_bar=sys.stdout.isatty(),
        gradient_clip_val=1.0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the batches of an epoch are shared out by `LengthBuckets`
    )
    checkpoint = resume_run(run, config) if resume else None
    if checkpoint is None and trainer.is_global_zero:
        start_run(run, config, dataset.tokenizer)
    buckets = LengthBuckets(fitting.lengths, training.batch_size, training.seed, training.pool_batches)
    buckets.share(trainer.global_rank, trainer.world_size)
    loader = DataLoader(SequenceSet(fitting), batch_size=None, sampler=buckets)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    best_weights = torch.load(run / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(best_weights)
    task = task.cpu().eval()
    if trainer.is_global_zero:
        results = evaluate(task, dataset)
        measured = task.measure(validation).items()
        results |= {f"validation_{name}": value for name, value in measured if name != "loss"}
        write_result(run, task, dataset.test, results, fitting.lengths)
    trainer.strategy.barrier()
    return read_results(run)


def _describe(dataset: Dataset, fitting: LabelledSequences, recipe: Recipe) -> RunConfig:
    return RunConfig(
        task=recipe.task,
        encoder=recipe.encoder,
        training=recipe.training,
        data=DataConfig(
            name=dataset.name,
            classes=list(dataset.classes),
            source=dataset.source,
            licence=dataset.licence,
            longest_training_sequence=max(fitting.lengths),
            file=dataset.file,
        ),
    )


def _watch(run: Path, task: Task, training: TrainConfig) -> list[Callback]:
    """Return what ends a training early, what keeps its best weights, and what it resumes from."""
    monitor = f"val_{task.monitor}"
    stopping = EarlyStopping(monitor, patience=training.patience, mode=task.monitor_mode)
    best = ModelCheckpoint(run, "best", monitor=monitor, mode=task.monitor_mode, enable_version_counter=False)
    # A callback of its own, for Lightning's `save_last` follows the best weights.
    last = ModelCheckpoint(run, "last", enable_version_counter=False)
    return [stopping, best, last]
