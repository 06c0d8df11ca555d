"""FastAPI, pydantic and ONNX Runtime, as their tutorials put them together; one request is one run."""

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.load.peers.encoder import PORT, WORKERS, Encoder

app = FastAPI()
encoder = Encoder()


class EncodeRequest(BaseModel):
    """Sequences of steps of numbers."""

    sequences: list[list[list[float]]]


class EncodeResponse(BaseModel):
    """One embedding a sequence."""

    embeddings: list[list[float]]


@app.post("/encode")
def encode(request: EncodeRequest) -> EncodeResponse:
    """Encode; a plain `def`, which FastAPI runs in its thread pool, as it recommends for work that blocks."""
    return EncodeResponse(embeddings=encoder.encode(request.sequences).tolist())


if __name__ == "__main__":
    uvicorn.run("bench.load.peers.naive:app", port=PORT, workers=WORKERS, log_level="warning")
