"""Encode a polars frame of one step a row: `python examples/encode_polars.py [URL]`. Needs `pip install ./client`."""

import sys

import numpy as np
import polars as pl

from lengthwise_client import Client

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"
draw = np.random.default_rng(0)
steps = pl.DataFrame(draw.standard_normal((26, 12), dtype=np.float32)).with_columns(
    who=pl.Series(["ann"] * 19 + ["bob"] * 7), time=pl.Series([*range(19), *range(7)])
)

groups = steps.sort("who", "time").partition_by("who", maintain_order=True)
with Client(url) as client:
    embeddings = client.encode([group.drop("who", "time").to_numpy() for group in groups])
found = pl.DataFrame({"who": [group["who"][0] for group in groups], "embedding": embeddings})
print(found.shape, found["who"].to_list(), found.schema["embedding"])
