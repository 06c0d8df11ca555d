"""Encode a pandas frame of one step a row: `python examples/encode_pandas.py [URL]`. Needs `pip install ./client`."""

import sys

import numpy as np
import pandas as pd

from lengthwise_client import Client, from_sktime

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"
draw = np.random.default_rng(0)
steps = pd.DataFrame(draw.standard_normal((26, 12), dtype=np.float32))
steps["who"] = ["ann"] * 19 + ["bob"] * 7
steps["time"] = [*range(19), *range(7)]

frame = steps.set_index(["who", "time"]).sort_index()  # as sktime's pd-multiindex
with Client(url) as client:
    embeddings = pd.DataFrame(client.encode(from_sktime(frame)), index=frame.index.unique("who"))
print(embeddings.shape, [*embeddings.index])
