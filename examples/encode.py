"""Encode sequences with httpx and NumPy, in binary both ways: `python examples/encode.py [URL]`."""

import io
import sys

import httpx
import numpy as np

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"
draw = np.random.default_rng(0)
sequences = [draw.standard_normal((length, 12), dtype=np.float32) for length in (19, 7)]

body = io.BytesIO()
np.savez(body, values=np.concatenate(sequences), lengths=[len(steps) for steps in sequences])
headers = {"Content-Type": "application/x-npz", "Accept": "application/x-npy"}
response = httpx.post(f"{url}/encode?normalize=true", content=body.getvalue(), headers=headers).raise_for_status()
embeddings = np.load(io.BytesIO(response.content))
print(embeddings.shape, embeddings.dtype, np.linalg.norm(embeddings, axis=1).round(3))
