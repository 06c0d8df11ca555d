"""Measures what runs cost here, and how many should run at once. `lengthwise calibrate` prints the table.

The measurements are kept in a file, so that the next start with the same encoder on the same machine measures nothing.
The file only saves time: if it cannot be read, the service measures anew; if it cannot be written, the log says so.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, TypeAlias

import onnxruntime
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import CliApp, SettingsConfigDict

from service.costs.cpus import available_cpus, name_cpu
from service.costs.measure import Arrangement, OpenSession, arrange, measure_run
from service.costs.memory import trim_heap
from service.costs.model import CostModel, Shape, choose_sizes
from service.encoder.providers import CudaOptions
from service.encoder.session import EncoderSession, open_session
from service.errors import StartupError
from service.settings import MISUSED, Settings, tell_faults, variable_of

logger = logging.getLogger("lengthwise")

# Lengths that are measured before the service is ready, as long as one run stays short, and those that are measured in
# idle time. The coarse ones leave out 1, which tells little about more steps: the first step of a run has no state to
# multiply.
COARSE_STEPS, COARSE_RUN_SECONDS = (4, 32, 256), 0.012
FINE_STEPS, FINE_RUN_SECONDS = (1, 12, 96, 512, 1024), 0.1

# If another process runs the batches of all: one is under way, one waits to be next, and one is left to small work.
AFAR_RUNNERS = 3

LAYOUT = 6  # raised if something is measured or chosen in another way, so that older files are not used

Positive: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Calibration(BaseModel):
    """The measurements of an encoder: the arrangements tried, the best first, and (B, T, seconds) in the best."""

    model_config = ConfigDict(frozen=True)

    arrangements: list[Arrangement] = Field(min_length=1)
    runs: list[tuple[Positive, Positive, Seconds]] = Field(min_length=1)


class Calibrator:
    """An encoder's calibration on this machine, read or measured, and the shapes that would refine it.

    Attributes:
        session: the encoder, opened with the chosen number of threads.
        cpus: how many CPUs its runs may keep busy while no other worker is at work.
        arrangements: the arrangements that were tried, the chosen one first.
        costs: what runs cost in that arrangement.
        is_cached: whether the calibration was known before.
    """

    def __init__(
        self, settings: Settings, session: EncoderSession, reopen: OpenSession, akin: Calibration | None = None
    ) -> None:
        """Read an encoder's calibration, or measure it.

        Args:
            settings: the service's settings, some of which take the place of a measurement.
            session: the encoder with `settings.threads`, or with one thread if that is to be measured.
            reopen: opens the encoder anew with so many threads.
            akin: the calibration of an encoder whose runs cost the same, used if this one has none of its own.
        """
        self.session = session
        self.cpus = available_cpus()
        self._settings = settings
        if session.measured:  # by the process that runs it, which shares nothing out
            self._file, self.is_cached = None, True
            self.arrangements = [Arrangement(runners=settings.runners or AFAR_RUNNERS, threads=settings.threads or 1)]
            self.costs = CostModel(session.measured, settings.max_batch_sequences)
            return
        self._file = _place(settings, session)
        own = _read(self._file)
        found = own or akin
        self.is_cached = found is not None
        self.arrangements = (
            found.arrangements if found else arrange(session, reopen, self.cpus, settings.runners, settings.threads)
        )
        if self.arrangements[0].threads != (settings.threads or 1):
            self.session = reopen(self.arrangements[0].threads)
        measured = (
            {(rows, steps): seconds for rows, steps, seconds in found.runs} if found else self._measure_coarsely()
        )
        self.costs = CostModel(measured, settings.max_batch_sequences)
        if not own:
            self.save()

    @property
    def calibration(self) -> Calibration:
        """All measurements so far."""
        runs = [(rows, steps, seconds) for (rows, steps), seconds in self.costs.measured.items()]
        return Calibration(arrangements=self.arrangements, runs=runs)

    def measure(self, shape: Shape) -> float:
        """Return the seconds of a run over `shape` while all runners do the same; see `measure_run`."""
        seconds = measure_run(self.session, shape, self.arrangements[0])
        self.session.release_memory()
        trim_heap()
        return seconds

    def choose_shape(self) -> Shape | None:
        """Return a shape whose measurement would refine the model; None if none is left."""
        if self.session.measured:
            return None
        for rows, steps in self._grid((*COARSE_STEPS, *FINE_STEPS)):
            if (rows, steps) not in self.costs.measured and self.costs.predict(rows, steps) <= FINE_RUN_SECONDS:
                return rows, steps
        return None

    def save(self) -> None:
        """Write the calibration into the file that the next start reads."""
        if self.session.measured:
            return
        if self._file is None:
            _tell_not_kept(self._settings.cache_dir, "the user has no home")
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft = self._file.with_suffix(f".{os.getpid()}")
            draft.write_text(self.calibration.model_dump_json(), encoding="utf-8")
            draft.replace(self._file)
        except OSError as error:
            _tell_not_kept(self._file.parent, error.strerror or str(error))

    def _measure_coarsely(self) -> dict[Shape, float]:
        """Measure enough for a start, in well under a second."""
        measured: dict[Shape, float] = {}
        row_seconds = 0.0  # for each row of the batch before; in a larger one a row seldom takes longer
        for rows, steps in self._grid(COARSE_STEPS):
            if rows == 1 or rows * row_seconds <= COARSE_RUN_SECONDS:
                measured[rows, steps] = self.measure((rows, steps))
                row_seconds = measured[rows, steps] / rows
        return measured

    def _grid(self, times: tuple[int, ...]) -> Iterator[Shape]:
        """Yield the shapes within the settings' bounds, of every size that a cut may have, small ones first."""
        for steps in times:
            for rows in choose_sizes(self._settings.max_batch_sequences):
                if rows == 1 or rows * steps <= self._settings.max_batch_steps:
                    yield rows, steps


@cache
def _tell_not_kept(folder: Path, reason: str) -> None:
    """Log once for each folder and reason, however many encoders are measured and however often."""
    logger.warning(
        "Measurements are not kept, so each start takes longer: %s cannot be written to (%s). "
        "Set LENGTHWISE_CACHE_DIR to a folder that can be.",
        folder,
        reason,
    )


def _place(settings: Settings, session: EncoderSession) -> Path | None:
    """Return a file whose name stands for all that a measurement depends on; None if there is no folder for it."""
    depends = [
        LAYOUT,
        session.sha256,
        onnxruntime.__version__,
        session.provider,
        name_cpu(),
        available_cpus(),
        settings.runners,
        settings.threads,
        settings.max_batch_sequences,
        settings.max_batch_steps,
    ]
    name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]
    try:
        return settings.cache_dir.expanduser() / f"calibration-{name}.json"
    except RuntimeError:  # the user has no home
        return None


def _read(file: Path | None) -> Calibration | None:
    """Read a calibration; None if there is none, or if it cannot be used."""
    try:
        return Calibration.model_validate_json(file.read_bytes()) if file else None
    except (OSError, ValidationError) as error:
        logger.debug("There is no calibration to read: %s", error)
        return None


def load(settings: Settings) -> Calibrator:
    """Open the encoder that the settings name, and calibrate it.

    Raises:
        StartupError: the encoder cannot be opened.
    """

    def reopen(threads: int) -> EncoderSession:
        return open_session(settings.model, settings.provider, threads, CudaOptions.of(settings))

    return Calibrator(settings, reopen(settings.threads or 1), reopen)


class Flags(Settings):
    """Measure all that the service would measure in idle time, and print it. The flags are those of the service."""

    model_config = SettingsConfigDict(cli_prog_name="lengthwise calibrate")


def main(arguments: list[str]) -> None:
    """Measure all that the service would measure in idle time, and print it.

    Args:
        arguments: the command line without the program's name: the service's own flags.
    """
    try:
        settings = CliApp.run(Flags, cli_args=arguments)
        calibrator = load(settings)
    except StartupError as error:
        sys.exit(f"lengthwise: {error.tell(variable_of)}")
    except ValidationError as error:
        sys.stderr.write(f"lengthwise: {tell_faults(error)}\n")
        sys.exit(MISUSED)
    while shape := calibrator.choose_shape():
        calibrator.costs.learn(shape, calibrator.measure(shape))
    calibrator.save()
    sys.stdout.write("\n".join(describe(calibrator)) + "\n")


def describe(calibrator: Calibrator) -> Iterator[str]:
    """Yield the lines of a table: the arrangements tried, then milliseconds by rows (down) and steps (across)."""
    yield f"{calibrator.session.file}: {calibrator.cpus} CPUs, {name_cpu()}"
    for place, tried in enumerate(calibrator.arrangements):
        speed = "" if tried.sequences_per_second is None else f", {tried.sequences_per_second:,.0f} sequences/s"
        yield f"{tried.runners} runs at a time, {tried.threads} threads in each{speed}{'' if place else ' (chosen)'}"
    measured = calibrator.costs.measured
    across = sorted({steps for _, steps in measured})
    yield "ms".rjust(6) + "".join(f"{steps:>9}" for steps in across)
    for rows in sorted({rows for rows, _ in measured}):
        times = (measured.get((rows, steps)) for steps in across)
        yield f"{rows:>6}" + "".join(" " * 9 if time is None else f"{1000 * time:9.3f}" for time in times)
