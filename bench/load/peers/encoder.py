"""What every peer does around its own server: pad the sequences at hand and run the model."""

import os

import numpy as np
import numpy.typing as npt
import onnxruntime

PORT = int(os.environ.get("BENCH_PORT", "8000"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
BATCH = int(os.environ.get("BENCH_BATCH", "32"))  # requests, for those that batch
WAIT_MS = int(os.environ.get("BENCH_WAIT_MS", "2"))


class Encoder:
    """The model of `BENCH_MODEL`, with `BENCH_THREADS` threads within a run."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def encode(self, sequences: list[list[list[float]]]) -> npt.NDArray[np.float32]:
        """Encode n sequences of `t_i` steps as one padded batch; `(n, D)`."""
        arrays = [np.asarray(sequence, dtype=np.float32) for sequence in sequences]
        lengths = np.array([len(steps) for steps in arrays], dtype=np.int64)
        padded = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), dtype=np.float32)
        for row, steps in zip(padded, arrays, strict=True):
            row[: len(steps)] = steps
        return self.run(padded, lengths)

    def run(self, padded: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Run a padded batch `(B, T, F)` with lengths `(B,)`; `(B, D)`."""
        (embeddings,) = self._session.run(["embedding"], {"sequences": padded, "lengths": lengths})
        return np.asarray(embeddings)
