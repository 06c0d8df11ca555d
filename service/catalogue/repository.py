"""Loads the artifacts of a folder, or a single one, and serves those that are good.

A file is read once, tried in a process of its own, loaded, and made to replay its golden vectors before it takes the
place of an older version. If anything is wrong with it, the older version stays, and the reason is kept.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from service.catalogue.models import Models, ServedModel
from service.encoder.session import SUFFIX, list_folder
from service.errors import ArtifactError, LengthwiseError, ModelRefused, UnknownModel
from service.errors.base import spell
from service.observing.counts import Change
from service.settings import NAME

logger = logging.getLogger("lengthwise")

UNLOADED = "it was unloaded"  # why a model is not served that an admin has unloaded

Mark: TypeAlias = tuple[int, ...]  # tells one version of a file from another; empty if there is no file


class ArtifactStatus(NamedTuple):
    """What became of an artifact: `ready` if it is served, and the `reason` if it, or a newer version of it, is not."""

    name: str
    version: str
    file: str
    ready: bool
    reason: str


@dataclass(slots=True)
class _File:
    """What is known about a file.

    Attributes:
        mark: the mark of the version that was tried last.
        model: the model that is served from it; None if none is.
        reason: why the version that was tried last is not served; empty if it is.
        is_unloaded: whether it is left alone until it is loaded by name.
    """

    mark: Mark = ()
    model: ServedModel | None = None
    reason: str = ""
    is_unloaded: bool = False


class Repository:
    """Keeps what is served in step with the files there are."""

    def __init__(
        self,
        place: Path,
        models: Models,
        open_model: Callable[[Path, Models], ServedModel],
        on_change: Callable[[str, Change], None] = lambda _name, _change: None,
    ) -> None:
        """Prepare; no file is read yet.

        Args:
            place: a folder of artifacts, or one artifact.
            models: the models that are served; only the repository changes them.
            open_model: reads, tries and loads an artifact, on a thread; raises LengthwiseError.
            on_change: is told the name of each model or file that changed, and what became of it.
        """
        self.place = place
        self._models = models
        self._open = open_model
        self._on_change = on_change
        self._files: dict[Path, _File] = {}
        self._lock = asyncio.Lock()

    def index(self) -> Iterator[ArtifactStatus]:
        """Yield the status of each artifact."""
        for path, known in self._files.items():
            model = known.model
            name, version = (model.name, model.version) if model else (spell(path.stem), "")
            reason = known.reason or (UNLOADED if known.is_unloaded else "")
            yield ArtifactStatus(name, version, spell(path.name), model is not None, reason)

    def open_all(self, *, is_strict: bool) -> None:
        """Load all artifacts there are, before the first request.

        Args:
            is_strict: whether an artifact that cannot be loaded is an error.

        Raises:
            LengthwiseError: the artifact cannot be loaded; says why.
        """
        for path in list_artifacts(self.place) if not is_strict else [self.place]:
            known = self._files.setdefault(path, _File())
            known.mark = _mark(path)
            found = self._try(path)
            if is_strict and isinstance(found, LengthwiseError):
                raise found
            self._settle(path, known, found)
        self._warn_of_nothing()

    async def scan(self) -> None:
        """Load files that are new or were replaced, and give up models whose file is gone."""
        async with self._lock:
            await self._scan()

    async def load(self, name: str) -> None:
        """Load a model by its name or its file's, unless the file is loaded as it stands.

        Raises:
            UnknownModel: no file has that name.
            ModelRefused: the file cannot be loaded; says why. A model that was served before still is.
        """
        async with self._lock:
            tried = await self._scan()
            found = self._find(name)
            for path, known in found:
                if path not in tried and (known.model is None or known.reason):
                    await self._reload(path, known, await asyncio.to_thread(_mark, path))
            for _, known in found:
                if known.reason:
                    raise ModelRefused(known.reason)

    async def unload(self, name: str) -> None:
        """Stop serving a model until it is loaded by name; requests under way are answered.

        Raises:
            UnknownModel: no file has that name.
        """
        async with self._lock:
            for _, known in self._find(name):
                known.is_unloaded = True
                self._give_up(known, "it was asked for")

    async def _scan(self) -> set[Path]:
        """Load new files, give up those that are gone, and return the files that were tried."""
        try:
            there = await asyncio.to_thread(list_artifacts, self.place)
        except ArtifactError as error:
            logger.error("%s All is served as before.", error)  # noqa: TRY400 - no fault of ours
            return set()
        for path in [known for known in self._files if known not in there]:
            self._give_up(self._files.pop(path), "its file is gone")
        tried = set()
        for path in there:
            known = self._files.setdefault(path, _File())
            mark = await asyncio.to_thread(_mark, path)
            if mark != known.mark and not known.is_unloaded:
                await self._reload(path, known, mark)
                tried.add(path)
        self._warn_of_nothing()
        return tried

    def _warn_of_nothing(self) -> None:
        """Say that no model is served, which is right for a folder that waits for some, and else a mistake."""
        if not any(True for _ in self._models):
            logger.warning("No model is served: %s holds no artifact (*%s) that can be", self.place, SUFFIX)

    def _find(self, name: str) -> list[tuple[Path, _File]]:
        found = [
            (path, known)
            for path, known in self._files.items()
            if name in ((known.model.name, known.model.full_name) if known.model else (path.stem,))
        ]
        if not found:
            raise UnknownModel(name, sorted({state.name for state in self.index()}))
        return found

    async def _reload(self, path: Path, known: _File, mark: Mark) -> None:
        known.mark, known.is_unloaded = mark, False
        self._settle(path, known, await asyncio.to_thread(self._try, path))

    def _try(self, path: Path) -> ServedModel | LengthwiseError:
        """Open an artifact, while others are served."""
        began = time.perf_counter()
        try:
            model = self._open(path, self._models)
            _check_names(path, model)
        except LengthwiseError as error:
            return error
        except Exception as error:
            logger.exception("%s could not be tried", path)
            return ArtifactError(str(path), f"loading it failed with {type(error).__name__}")
        logger.info("%s was tried in %.2f s", path, time.perf_counter() - began)
        return model

    def _settle(self, path: Path, known: _File, found: ServedModel | LengthwiseError) -> None:
        """Serve the model that was opened in place of the file's older one, or keep the reason why not."""
        if isinstance(found, ServedModel):
            reason = next(self._find_objections(found, known.model), None)
            found = found if reason is None else ArtifactError(str(path), reason)
        if isinstance(found, LengthwiseError):
            known.reason = str(found).replace(spell(str(path)), spell(path.name))  # callers need not know the folder
            stays = f" {known.model.full_name} is served as before." if known.model else ""
            logger.error("%s%s", found, stays)
            self._on_change(known.model.name if known.model else spell(path.stem), "refused")
            return
        if known.model and known.model.session.sha256 == found.session.sha256:
            known.reason = ""
            return
        self._models.change(known.model, found)
        known.model, known.reason = found, ""
        proof = (
            "unverified" if found.golden_difference is None else f"golden vectors within {found.golden_difference:.2g}"
        )
        logger.info("Serving %s on %s, %s", found.full_name, found.session.provider, proof)
        self._on_change(found.name, "loaded")

    def _find_objections(self, found: ServedModel, replaced: ServedModel | None) -> Iterator[str]:
        """Yield why a good model should not take the place of another."""
        for other in self._models:
            if other is not replaced and other.full_name == found.full_name:
                yield f"{found.full_name} is served from {other.file.name}"
        if replaced and replaced.session.manifest and not found.session.manifest:
            yield "it has no manifest and so no proof, and what it would replace has one"

    def _give_up(self, known: _File, why: str) -> None:
        if model := known.model:
            known.model = None
            self._models.change(model, None)
            logger.info("%s is not served any more: %s", model.full_name, why)
            self._on_change(model.name, "unloaded")
        known.mark = ()


def list_artifacts(place: Path) -> list[Path]:
    """Return the artifacts at a place, in order; hidden files are drafts and do not count.

    Raises:
        ArtifactError: the place cannot be read.
    """
    if (files := list_folder(place)) is None:
        return [place] if place.exists() else []
    return [path for path in files if not path.name.startswith(".")]


def _check_names(path: Path, model: ServedModel) -> None:
    """Refuse names and versions that do not fit into a path or into `name@version`."""
    for kind, value in (("name", model.name), ("version", model.version)):
        if not re.fullmatch(NAME, value):
            hint = "" if model.session.manifest else ": rename the file, or set LENGTHWISE_MODEL_NAME"
            raise ArtifactError(str(path), f"its {kind} {value[:40]!r} is not of the form {NAME}{hint}")


def _mark(path: Path) -> Mark:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino
