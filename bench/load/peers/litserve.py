"""LitServe with dynamic batching, a worker for each CPU."""

from typing import Any

import litserve

from bench.load.peers.encoder import BATCH, PORT, WAIT_MS, WORKERS, Encoder

Nested = list[list[list[float]]]


class EncodeAPI(litserve.LitAPI):
    """Joins the sequences of the batched requests, and hands each request its own rows."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's own signature
        """Load the model in a worker."""
        self.encoder = Encoder()

    def decode_request(self, request: dict[str, Nested], **_: Any) -> Nested:
        """Take the sequences out of the parsed JSON."""
        return request["sequences"]

    def batch(self, inputs: list[Nested]) -> list[Nested]:
        """Keep requests apart: each holds any number of sequences."""
        return inputs

    def predict(self, requests: list[Nested], **_: Any) -> list[list[list[float]]]:
        """Encode all sequences of all requests in one run."""
        rows = iter(self.encoder.encode([steps for request in requests for steps in request]).tolist())
        return [[next(rows) for _ in request] for request in requests]

    def unbatch(self, output: list[list[list[float]]]) -> list[list[list[float]]]:
        """Return one output a request."""
        return output

    def encode_response(self, output: list[list[float]], **_: Any) -> dict[str, list[list[float]]]:
        """Name the embeddings."""
        return {"embeddings": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        EncodeAPI(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1e3, api_path="/encode"),
        accelerator="cpu",
        workers_per_device=WORKERS,
        timeout=120,
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
