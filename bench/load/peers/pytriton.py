"""Triton through PyTriton with its dynamic batcher, an instance for each CPU.

Triton batches only requests of one shape, and takes rectangular tensors only: the sequences of a request arrive padded.
"""

import os

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.load.peers.encoder import BATCH, PORT, WAIT_MS, WORKERS, Encoder


class Instance:
    """One copy of the model."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    @batch  # type: ignore[untyped-decorator]
    def __call__(
        self, sequences: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Encode `(B, T, F)` with lengths `(B, 1)`."""
        return {"embedding": self.encoder.run(sequences, lengths[:, 0])}


if __name__ == "__main__":
    rpc = os.environ.get("BENCH_GRPC_PORT")
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        allow_grpc=bool(rpc),
        grpc_address="127.0.0.1",
        grpc_port=int(rpc) if rpc else None,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="encoder",
            infer_func=[Instance() for _ in range(WORKERS)],
            inputs=[
                Tensor(name="sequences", dtype=np.float32, shape=(-1, int(os.environ["BENCH_FEATURES"]))),
                Tensor(name="lengths", dtype=np.int64, shape=(1,)),
            ],
            outputs=[Tensor(name="embedding", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=1000 * WAIT_MS)
            ),
        )
        triton.serve()
