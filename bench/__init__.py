"""Measures: figures, not tests.

- `__main__`: `python -m bench NAME`, the one entry.
- `speed/`: how fast something is.
- `stress/`: what happens when something is wrong.
- `load/`: what every measurement shares.
"""

import os

from model.extras import explain_missing_packages

explain_missing_packages()
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything here, or any peer started from here, imports ONNX Runtime
