"""Converts a trained run into one ONNX file, and proves that it is the same encoder."""
