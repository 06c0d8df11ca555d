"""An artifact that runs. With `service.errors`, it is all that export needs of the service.

- `frozen`: dataclasses that nobody changes, and that cost a request little.
- `sequences`: steps end to end with their lengths, padded batches, and what a run of one gives.
- `manifest`: what an artifact says of itself, and the golden vectors inside it.
- `prediction`: what the logits of a graph mean.
- `providers`: ONNX Runtime's execution providers, and the options each is started with.
- `runtime`: what runs a graph: the seam between a session and ONNX Runtime, in this process or another.
- `region`: memory that two processes share, and what they say of it.
- `channel`: a way to the process that owns a GPU, for one run at a time.
- `remote`: a graph that runs there.
- `session`: an artifact opened and proven, and its runs.
- `tokenizer`: texts to token ids, by the tokenizer inside the artifact.
"""
