"""Measures: figures, not tests."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything here, or any peer started from here, imports ONNX Runtime
