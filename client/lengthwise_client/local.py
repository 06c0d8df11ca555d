"""An artifact that runs in this process, without a service; needs the extra `local`: ONNX Runtime."""

import hashlib
import json
import os
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lengthwise_client.formats import Array, to_arrays

# The service's own bounds of a batch: what memory a run takes.
MAX_ROWS, MAX_STEPS = 32, 16384
GOLDEN_TOLERANCE = 1e-5  # other CPUs sum in another order: the last bits of float32 sums of O(1)


class LocalEncoder:
    """Encodes by an artifact as the service does: float32 LSTM and GRU give the same bits on the same machine.

    Attributes:
        sha256: the hash of the whole file.
        features: F, the numbers in a step; None if steps are token ids.
        dim: D, the numbers in an embedding.
    """

    def __init__(self, path: Path) -> None:
        """Load a file, and replay its golden vectors if it has any.

        Raises:
            ImportError: ONNX Runtime is not installed.
            ValueError: its golden vectors do not come out as they were proven.
        """
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # official wheels send some unless this stands first
        try:
            import onnxruntime  # noqa: PLC0415 - without it, the rest of the client works
        except ImportError as error:
            raise ImportError("an artifact in process needs ONNX Runtime: pip install onnxruntime") from error
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as the service's, whose bits these are
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        inputs = {node.name: node for node in self._session.get_inputs()}
        self.features: int | None = inputs["sequences"].shape[2] if len(inputs["sequences"].shape) == 3 else None
        self._states = {name: node.shape[1:] for name, node in inputs.items() if name.startswith("initial_")}
        self.dim = self._run(to_arrays([self._zeros()], 0, self.features)).shape[1]
        manifest = self._session.get_modelmeta().custom_metadata_map.get("lengthwise")
        if manifest is not None:
            self._replay(json.loads(manifest), path)

    def encode(self, sequences: Iterable[npt.ArrayLike]) -> Array:
        """Encode sequences of any length.

        Args:
            sequences: n arrays or lists: `(t_i, F)` numbers or `(t_i,)` token ids.

        Returns:
            Embeddings `(n, D)`, row i for sequence i.

        Raises:
            TypeError: `sequences[i]` is not of the kind the model reads.
            ValueError: `sequences[i]` is not of its shape, has no steps, or holds NaN, an infinity or an id below 1.
        """
        arrays = to_arrays([*sequences], 0, self.features)
        require_numbers(arrays)
        if self.features is None:
            self._require_tokens(arrays)
        embeddings = np.empty((len(arrays), self.dim), np.float32)
        for places in _cut([len(steps) for steps in arrays]):
            embeddings[places] = self._run([arrays[place] for place in places])
        return embeddings

    def _require_tokens(self, arrays: list[npt.NDArray[Any]]) -> None:
        """Refuse ids that are no tokens, as the service does: the graph would take a negative one for another."""
        for index, steps in enumerate(arrays):
            if (steps < 1).any():
                raise ValueError(f"sequences[{index}] holds {steps.min()}, which is not a token id: 0 is padding")

    def _zeros(self) -> npt.NDArray[Any]:
        return np.ones(1, np.int64) if self.features is None else np.zeros((1, self.features), np.float32)

    def _run(self, arrays: list[npt.NDArray[Any]]) -> Array:
        """Encode one batch, padded to the longest of it."""
        lengths = np.array([len(steps) for steps in arrays], np.int64)
        padded = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), arrays[0].dtype)
        for row, steps in zip(padded, arrays, strict=True):
            row[: len(steps)] = steps
        states = {name: np.zeros((len(arrays), *shape), np.float32) for name, shape in self._states.items()}
        (found,) = self._session.run(["embedding"], {"sequences": padded, "lengths": lengths, **states})
        embeddings: Array = found
        return embeddings

    def _replay(self, manifest: Mapping[str, Any], path: Path) -> None:
        """Encode the golden sequences, and compare."""
        golden = manifest["golden"]
        found = self._run(to_arrays([_read(one["sequence"]) for one in golden], 0, self.features))
        difference = float(np.abs(found - np.stack([_read(one["embedding"]) for one in golden])).max())
        quantized = manifest.get("quantization") or {}
        tolerance = max(GOLDEN_TOLERANCE, quantized.get("golden_tolerance", 0.0))
        if not difference <= tolerance:  # so that NaN is refused
            raise ValueError(f"{path} gives embeddings that differ by {difference:.2g} from the proven ones")


def require_numbers(arrays: list[npt.NDArray[Any]]) -> None:
    """Refuse sequences that have no embedding.

    Raises:
        ValueError: `sequences[i]` has no steps, or holds NaN or an infinity.
    """
    for index, steps in enumerate(arrays):
        if not len(steps):
            raise ValueError(f"sequences[{index}] has no steps, and no average")
        if steps.dtype.kind == "f" and not np.isfinite(steps).all():
            raise ValueError(f"sequences[{index}] holds NaN or an infinity, or a number too large for float32")


def open_local(path: Path) -> LocalEncoder:
    """Return the encoder in a file; it is opened once, and again after the file has changed."""
    status = path.stat()
    return _open(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _open(path: Path, _changed: int, _size: int) -> LocalEncoder:
    return LocalEncoder(path)


def _cut(lengths: list[int]) -> Iterator[list[int]]:
    """Yield the places of sequences that are run together, those of like lengths, within the bounds of a batch."""
    gathered: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        steps = lengths[place] * (len(gathered) + 1)  # the longest so far
        if gathered and (len(gathered) == MAX_ROWS or steps > MAX_STEPS):
            yield gathered
            gathered = []
        gathered.append(place)
    if gathered:
        yield gathered


def _read(tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return an array of the manifest."""
    return np.frombuffer(b64decode(tensor["base64"]), tensor.get("dtype", "<f4")).reshape(tensor["shape"])
