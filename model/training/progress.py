"""What a training says while it runs: a line an epoch where nobody watches a bar, and nothing of Lightning's own."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as lightning
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.callbacks import Callback

SECONDS_BETWEEN = 5.0

NO_NEWS = (
    r"Checkpoint directory .* exists and is not empty",  # `start_run` made it, and left nothing old in it
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
)


class Progress(Callback):
    """Prints a line after the first epoch, the last, and those between that end some seconds after the last line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._printed: float | None = None
        self._waiting = ""

    def on_train_epoch_end(self, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        """Print or keep the line of the epoch that ended."""
        metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items())
        self._waiting = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {metrics}"
        if self._printed is None or self._clock() - self._printed >= SECONDS_BETWEEN:
            self._print(trainer)

    def on_train_end(self, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        """Print the line of the last epoch, if it waits."""
        if self._waiting:
            self._print(trainer)

    def _print(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            print(self._waiting, file=sys.stderr, flush=True)
        self._printed, self._waiting = self._clock(), ""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's adverts, its hints at settings that are not the user's, and what is no news out of a log."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            for message in NO_NEWS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
