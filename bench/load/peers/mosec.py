"""mosec with orjson in place of its own JSON and dynamic batching, as many workers as it is told."""

import sys
from itertools import pairwise

import mosec
import orjson

from bench.load.peers.encoder import BATCH, PORT, WAIT_MS, WORKERS, Encoder

Nested = list[list[list[float]]]


class EncodeWorker(mosec.Worker):
    """Joins the sequences of the batched requests, and hands each request its own rows."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    def deserialize(self, data: bytes) -> Nested:
        """Parse one request."""
        sequences: Nested = orjson.loads(data)["sequences"]
        return sequences

    def forward(self, data: list[Nested]) -> list[object]:
        """Encode all sequences of all requests in one run."""
        embeddings = self.encoder.encode([steps for request in data for steps in request])
        ends = [0]
        for request in data:
            ends.append(ends[-1] + len(request))
        return [embeddings[start:end] for start, end in pairwise(ends)]

    def serialize(self, data: object) -> bytes:
        """Write one answer."""
        return orjson.dumps({"embeddings": data}, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(PORT), "--timeout", "120000", "--log-level", "warning"]
    sys.argv += ["--wait", str(WAIT_MS)]  # mosec takes a worker's 0 for none given
    server = mosec.Server()
    server.append_worker(EncodeWorker, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS, route="/encode")
    server.run()
