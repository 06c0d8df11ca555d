"""Loads artifacts before processes are forked: what ONNX Runtime made of their weights is then in memory once for all.

It packs the weights when a session is made, and only reads them afterwards.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from service.catalogue.repository import list_artifacts
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.files import read_file
from service.costs.memory import resident_bytes, trim_heap
from service.encoder.providers import CudaOptions
from service.encoder.runtime import LocalRuntime
from service.encoder.session import find_artifact
from service.errors import LengthwiseError
from service.settings import Settings

logger = logging.getLogger("lengthwise")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An artifact that was loaded before the fork.

    Attributes:
        runtime: what runs it, on one thread.
        memory_bytes: how much the process grew by it, or the process that tried it.
    """

    runtime: LocalRuntime
    memory_bytes: int


Ahead: TypeAlias = Mapping[bytes, Loaded]  # by the hashes of the files

NOTHING: Ahead = MappingProxyType({})


def hash_file(content: bytes) -> bytes:
    """Return what `Ahead` knows a file by."""
    return hashlib.sha256(content).digest()


def load_ahead(settings: Settings) -> dict[bytes, Loaded]:
    """Load what the settings name, for processes that are forked from this one.

    An artifact that cannot be loaded is left to them, and they say why.

    Args:
        settings: the service's settings. If they name a folder, each file is examined first.
    """
    if settings.threads != 1 or settings.provider == "cuda":
        return {}  # other threads would be missing after a fork, and CUDA is not to become the CPU unseen
    examiner, found = Examiner(), dict[bytes, Loaded]()
    for path in list_artifacts(settings.models or find_artifact(settings.model)):
        try:
            digest, loaded = _load(path, settings, examiner if settings.models else None)
        except LengthwiseError as error:
            logger.debug("%s is not loaded ahead: %s", path, error)
        else:
            found[digest] = loaded
    examiner.close()
    trim_heap()
    return found


def _load(path: Path, settings: Settings, examiner: Examiner | None) -> tuple[bytes, Loaded]:
    content = read_file(path)
    taken = examiner.examine(content, str(path)).memory_bytes if examiner else None
    before = resident_bytes()
    runtime = LocalRuntime(content, str(path), "cpu", 1, CudaOptions.of(settings))
    grown = max(0, resident_bytes() - before)
    return hash_file(content), Loaded(runtime, grown if taken is None else taken)
