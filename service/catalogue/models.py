"""The encoders that are loaded, and the names they are served under."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.batching.queue import Queue
from service.codecs.json.plain import Bounds
from service.costs.calibrate import Calibrator
from service.encoder.sequences import InputSpec
from service.encoder.session import EncoderSession
from service.errors import UnknownModel


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """An encoder that was loaded and proven, with its queue. It never changes: a newer one takes its place.

    Attributes:
        name: the name it is served under.
        version: its version; one name may have several.
        file: the artifact's path.
        session: the session that runs it.
        spec: what it reads.
        golden_difference: the largest difference in the replay of the golden vectors; None if it has none.
        calibrator: the measurements of it on this machine.
        queue: the queue of the sequences that wait for it.
        memory_bytes: how much this process grew by it, or the process that tried it first; None if not measured.
    """

    name: str
    version: str
    file: Path
    session: EncoderSession
    spec: InputSpec
    golden_difference: float | None
    calibrator: Calibrator
    queue: Queue
    memory_bytes: int | None = None

    @property
    def full_name(self) -> str:
        """The name that no other version has."""
        return f"{self.name}@{self.version}"


class Models:
    """The models by name: `name` means its newest version, `name@version` that version, and no name the default.

    Attributes:
        default: the name that is meant if a request gives none; None means the only name, if there is only one.
        bounds: what sequences of any model take in JSON.
    """

    def __init__(self, default: str | None = None) -> None:
        """Begin without any model."""
        self.default = default
        self.bounds = Bounds()
        self._default: str | None = None
        self._models: list[ServedModel] = []
        self._named: dict[str | None, ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        """Go through all models, by name, and the newest version of each first."""
        return iter(self._models)

    def change(self, gone: ServedModel | None, new: ServedModel | None) -> None:
        """Remove one model and add another at once: every request gets either the old one or the new one."""
        models = [model for model in self._models if model is not gone] + ([new] if new else [])
        models.sort(key=_newest_last, reverse=True)
        models.sort(key=lambda model: model.name)
        named: dict[str | None, ServedModel] = {}
        for model in models:
            named.setdefault(model.name, model)
            named[model.full_name] = model
        default = self.default
        if default is None and len({model.name for model in models}) == 1:
            default = models[0].name
        self._default = default if default in named else None
        if self._default:
            named[None] = named[self._default]
        self._models, self._named = models, named
        self.bounds = Bounds.of(model.spec for model in models)

    @property
    def default_name(self) -> str | None:
        """The name that is meant if a request gives none; None if requests must give one."""
        return self._default

    def find(self, name: str | None) -> ServedModel:
        """Return the model that a name means now.

        Raises:
            UnknownModel: the name means no model; carries the names that do.
        """
        if model := self._named.get(name):
            return model
        bare = (name or "").partition("@")[0]
        versions = [model.full_name for model in self._models if model.name == bare]
        raise UnknownModel(name or self.default, versions or [*self.names()])

    def names(self) -> dict[str, ServedModel]:
        """Return the names worth telling: the bare ones, and those with a version if a name has several."""
        often = Counter(model.name for model in self._models)
        full = {model.full_name: model for model in self._models if often[model.name] > 1}
        return dict(sorted({**{model.name: self._named[model.name] for model in self._models}, **full}.items()))

    def names_of(self, model: ServedModel) -> list[str]:
        """Return the names that mean a model now."""
        return [name for name, meant in self._named.items() if meant is model and name]


def _newest_last(model: ServedModel) -> tuple[list[tuple[int, int, str]], str]:
    """Order versions: numbers in them count as numbers, and equal versions are ordered by their time of export."""
    parts = [part for part in re.split(r"(\d+)|[._-]", model.version) if part]
    manifest = model.session.manifest
    key = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
    return key, manifest.created if manifest else ""
