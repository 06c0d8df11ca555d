"""Measures: figures, not tests."""

import os

from model.extras import explain_missing_packages

explain_missing_packages()
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything here, or any peer started from here, imports ONNX Runtime
