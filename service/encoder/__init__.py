"""An artifact that runs. With `service.errors`, it is all that export needs of the service.

- `sequences`: steps end to end with their lengths, padded batches, and what a run of one gives.
- `manifest`: what an artifact says of itself, and the golden vectors inside it.
- `providers`: ONNX Runtime's execution providers, and the options each is started with.
- `session`: an artifact opened and proven, and its runs.
- `tokenizer`: texts to token ids, by the tokenizer inside the artifact.
"""
