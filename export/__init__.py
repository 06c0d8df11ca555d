"""Converts a trained run into one ONNX file, and proves that it is the same encoder."""

import model  # noqa: F401 - it prepares threads before torch is imported, and explains what is missing
