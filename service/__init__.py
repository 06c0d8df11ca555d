"""Serves: FastAPI and ONNX Runtime; it never imports torch."""

import os

__version__ = "0.1.0"

# Official ONNX Runtime wheels send telemetry unless this stands before their first import, wherever that is.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
