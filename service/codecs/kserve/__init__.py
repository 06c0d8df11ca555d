"""Tensors, as the Open Inference Protocol (KServe V2) sends them.

- `schemas`: the shapes of its messages.
- `tensors`: tensors in the raw bytes behind the JSON.
- `tensor_json`: tensors inside the JSON.
- `inference`: a request to infer, and its answer.
- `messages`: the messages of gRPC; `open_inference.proto` says what they are.
"""
