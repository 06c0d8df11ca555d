"""Makes a model of a file: reads, tries, loads and proves it, and measures it unless a predecessor was measured."""

from pathlib import Path

from service.batching.policy import AFAR, POLICY
from service.batching.queue import Bounds
from service.batching.sharing import Company, Queues
from service.catalogue.ahead import NOTHING, Ahead, hash_file
from service.catalogue.models import Models, ServedModel
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.files import read_file
from service.costs.board import PLACES
from service.costs.calibrate import Calibration, Calibrator
from service.costs.cpus import available_cpus
from service.costs.measure import count_runners
from service.costs.memory import resident_bytes
from service.encoder.manifest import Manifest
from service.encoder.providers import CudaOptions
from service.encoder.remote import Owners
from service.encoder.session import EncoderSession, find_artifact
from service.encoder.tokenizer import describe_input
from service.settings import Settings


class Loader:
    """Loads artifacts for one process.

    The first model decides how many runners and threads the process has; all others are opened to fit that.

    Attributes:
        queues: all that waits and runs in the process, of all models.
    """

    def __init__(
        self,
        settings: Settings,
        owners: Owners | None = None,
        company: Company | None = None,
        ahead: Ahead = NOTHING,
    ) -> None:
        """Load nothing yet.

        Args:
            settings: the service's settings. If they name one artifact, it is trusted at the start, as the service
                itself is; any later one, and any from a folder, is examined first.
            owners: the processes that run what is loaded; without any, this one does.
            company: the other workers, which use the same CPUs; None if there are none.
            ahead: what was loaded before this process was forked.
        """
        self._ahead = ahead
        self.settings = settings
        self._is_wary = settings.models is not None
        self._examiner = Examiner()
        self._owners = owners
        runners = settings.runners or count_runners(available_cpus())
        self.queues = Queues(runners, AFAR if owners else POLICY, company)
        self._arranged: Settings | None = None

    def open(self, path: Path, models: Models) -> ServedModel:
        """Load an artifact; if a model of its name and architecture is served, its measurements are used.

        Raises:
            StartupError: the artifact cannot be served; says why.
        """
        path = find_artifact(path)
        content = read_file(path)
        before = resident_bytes()
        ahead = self._ahead.get(hash_file(content))
        examined = self._examiner.examine(content, str(path)) if self._is_wary and not ahead else None
        self._is_wary = True
        settings = self._arranged or self.settings

        def reopen(threads: int) -> EncoderSession:
            runtime = self._owners.open(content, str(path)) if self._owners else ahead.runtime if ahead else None
            cuda = CudaOptions.of(settings)
            return EncoderSession(content, str(path), settings.provider, threads, cuda, runtime=runtime)

        session = reopen(settings.threads or 1)
        difference = session.replay_golden()
        taken = examined or ahead
        spec = describe_input(session)
        manifest = session.manifest
        name = self.settings.model_name or (manifest.name if manifest else path.stem)
        akin = next(
            (model for model in models if model.name == name and _is_akin(model.session.manifest, manifest)), None
        )
        calibrator = Calibrator(settings, session, reopen, akin.calibrator.calibration if akin else None)
        if akin:
            calibrator.costs.adopt(akin.calibrator.costs)
        self._arrange(calibrator.calibration)
        bounds = Bounds(settings.max_batch_steps, settings.max_queue_steps, settings.max_queue_seconds)
        return ServedModel(
            name=name,
            version=manifest.version if manifest else "1",
            file=path,
            session=calibrator.session,
            spec=spec,
            golden_difference=difference,
            calibrator=calibrator,
            queue=self.queues.open(calibrator.costs, bounds, int(session.sha256[:8], 16) % PLACES),
            memory_bytes=taken.memory_bytes if taken else max(0, resident_bytes() - before),
        )

    def close(self) -> None:
        """End the process that examines a file, if there is one; no more files are loaded."""
        self._examiner.close()

    def _arrange(self, calibration: Calibration) -> None:
        """Make all later models use the runners and threads of the first one."""
        if self._arranged is None:
            chosen = calibration.arrangements[0]
            self._arranged = self.settings.model_copy(update={"runners": chosen.runners, "threads": chosen.threads})
            self.queues.resize(chosen.runners)


def _is_akin(old: Manifest | None, new: Manifest | None) -> bool:
    """Whether runs of two models cost the same, because only their weights differ."""
    if old is None or new is None or (old.quantization is None) != (new.quantization is None):
        return False
    return (old.encoder, old.input.features, old.dim, old.prediction) == (
        new.encoder,
        new.input.features,
        new.dim,
        new.prediction,
    )
