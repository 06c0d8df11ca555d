"""`python -m model.train --dataset NAME`: train an encoder with a classifier on top, and leave a run directory.

The validation set that stops a training early is carved out of the training sequences; the test sequences are
read once, at the end, for the record.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from model.checkpoint import BrokenRun, DataConfig, RunConfig, TrainConfig, resume_run, start_run, write_result
from model.data import Batch, LengthBuckets, SequenceSet, in_order, mix_seed, split_stratified
from model.datasets import DATASETS, Dataset, DatasetUnavailable
from model.encoder import EncoderConfig
from model.evaluate import evaluate, load_dataset, score
from model.tasks import Augmentation, SequenceClassifier

RECIPES = Path(__file__).parent / "recipes"


class Training(lightning.LightningModule):
    """One training of a classifier, as Lightning runs it."""

    def __init__(self, model: SequenceClassifier, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self._config = config
        self._augment = Augmentation(config.noise, config.offset)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of a batch.

        Each step is seeded by its number, so that a resumed training draws what an unbroken one would.
        """
        torch.manual_seed(mix_seed(self._config.seed, self.global_step))
        standardization = self.model.encoder.standardization
        std = torch.ones(()) if standardization is None else standardization.std
        logits = self.model(self._augment(batch.sequences, std), batch.lengths)
        loss = self.model.loss(logits, batch.labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Log loss and accuracy of a batch."""
        logits = self.model(batch.sequences, batch.lengths)
        size = len(batch.labels)
        self.log("val_loss", self.model.loss(logits, batch.labels), prog_bar=True, batch_size=size)
        self.log("val_accuracy", self.model.accuracy(logits, batch.labels), prog_bar=True, batch_size=size)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return AdamW under a one-cycle schedule."""
        config = self._config
        optimizer = torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.2,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MetricsTable(Callback):
    """Writes `metrics.csv`, one row an epoch; epochs that a resumed training repeats replace their old rows."""

    COLUMNS = ("train_loss", "val_loss", "val_accuracy")

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the row of the epoch that ended."""
        rows = self._path.read_text(encoding="utf-8").splitlines()[1:] if self._path.exists() else []
        kept = [row for row in rows if int(row.partition(",")[0]) < pl_module.current_epoch]
        values = [f"{float(trainer.callback_metrics[name]):.6g}" for name in self.COLUMNS]
        kept.append(",".join([str(pl_module.current_epoch), *values]))
        self._path.write_text("\n".join([",".join(["epoch", *self.COLUMNS]), *kept, ""]), encoding="utf-8")


def train(
    run: Path, dataset: Dataset, encoder: EncoderConfig, training: TrainConfig, *, resume: bool = False
) -> dict[str, float]:
    """Train an encoder and its classifier, and write the run directory.

    Args:
        run: the directory; made where it is not there.
        dataset: the split; already shuffled where `training` says so.
        encoder: what to train.
        training: how.
        resume: go on from the directory's `last.ckpt`.

    Returns:
        The metrics on the test sequences, see `evaluate`, with `validation_accuracy`.

    Raises:
        BrokenRun: there is nothing to resume, or it was started otherwise.
    """
    lightning.seed_everything(training.seed, verbose=False)
    fitting, validation = split_stratified(dataset.train, training.validation_share, training.seed)
    config = RunConfig(
        encoder=encoder,
        training=training,
        data=DataConfig(
            name=dataset.name,
            classes=list(dataset.classes),
            source=dataset.source,
            licence=dataset.licence,
            longest_training_sequence=max(map(len, fitting.sequences)),
        ),
    )
    checkpoint = resume_run(run, config) if resume else None
    if checkpoint is None:
        start_run(run, config)
    model = config.build()
    if model.encoder.standardization is not None:
        model.encoder.standardization.fit([torch.from_numpy(steps) for steps in fitting.sequences])
    module = Training(model, training)
    stopping = EarlyStopping("val_loss", patience=training.patience)
    checkpoints = ModelCheckpoint(run, "best", monitor="val_loss", save_last=True, enable_version_counter=False)
    trainer = lightning.Trainer(
        max_epochs=training.epochs,
        callbacks=[stopping, checkpoints, MetricsTable(run / "metrics.csv")],
        logger=False,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    lengths = [len(steps) for steps in fitting.sequences]
    buckets = LengthBuckets(lengths, training.batch_size, training.seed, training.pool_batches)
    trainer.fit(
        module,
        DataLoader(SequenceSet(fitting), batch_size=None, sampler=buckets),
        DataLoader(SequenceSet(validation), batch_size=None, sampler=in_order(len(validation))),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    # A schedule that ran out has annealed its last epoch; one that was stopped early is best at its best epoch.
    kept = checkpoints.best_model_path if stopping.stopped_epoch else checkpoints.last_model_path
    module.load_state_dict(torch.load(kept, weights_only=True)["state_dict"])
    results = evaluate(model.cpu(), dataset)
    results["validation_accuracy"] = score(model, validation)
    write_result(run, model, dataset.test, results)
    return results


def read_recipe(path: Path, features: int, **overrides: Any) -> tuple[EncoderConfig, TrainConfig]:
    """Read a recipe: JSON with the fields of `EncoderConfig` and `TrainConfig` that differ from their defaults.

    Args:
        path: the file.
        features: F, from the data.
        overrides: fields of `TrainConfig` that win over the file; None leaves a field alone.

    Raises:
        ValueError: the file is not such JSON.
    """
    try:
        recipe = json.loads(path.read_text())
        training = TrainConfig(**recipe.get("training", {}))
        encoder = EncoderConfig(features=features, **recipe.get("encoder", {}))
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    given = {name: value for name, value in overrides.items() if value is not None}
    return encoder, dataclasses.replace(training, **given)


def main(arguments: list[str] | None = None) -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS), help="what to train on")
    parser.add_argument(
        "--recipe", type=Path, help="JSON with encoder and training fields; the data set's own by default"
    )
    parser.add_argument("--out", type=Path, help="run directory; runs/DATASET by default")
    parser.add_argument("--seed", type=int, help="of weights, batches and split")
    parser.add_argument("--seeds", type=int, help="train this many runs, OUT/seed-0, OUT/seed-1, ...")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--shuffle-frames", action="store_true", help="the control that loses all order")
    parser.add_argument("--resume", action="store_true", help="go on from the run directory's last.ckpt")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.dataset
    try:
        dataset = load_dataset(options.dataset, shuffled=options.shuffle_frames)
        encoder, training = read_recipe(
            options.recipe or RECIPES / f"{options.dataset}.json",
            dataset.features,
            epochs=options.epochs,
            seed=options.seed,
            shuffle_frames=options.shuffle_frames,
        )
        for offset in range(options.seeds or 1):
            run = out / f"seed-{training.seed + offset}" if options.seeds else out
            seeded = dataclasses.replace(training, seed=training.seed + offset)
            results = train(run, dataset, encoder, seeded, resume=options.resume)
            print(f"{run}:", ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
    except (BrokenRun, DatasetUnavailable, ValueError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
