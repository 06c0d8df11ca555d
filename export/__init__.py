"""Converts an encoder into one ONNX file, and proves that the file is the same encoder.

- `__main__`: the command.
- `artifact`: from an encoder to a proven file.
- `graph`, `slopes`, `pool`, `head`, `builder`: the ONNX graph; its slopes; its pooling; what it predicts; its nodes as
  they are written down.
- `oracle`: the encoder once more, in plain numpy.
- `verify`, `compare`: the proof; how far apart two answers are.
- `quantize`: int8 weights, and what they cost.
- `foreign`: encoders from weights that other programs trained.
- `torch_state`, `keras_file`, `tensorflow1`: the readers of such weights.
- `gates`: the order in which each library stacks a cell's gates.
"""

import model  # noqa: F401 - it prepares threads before torch is imported, and explains what is missing
