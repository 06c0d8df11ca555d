"""Formats in JSON, each read in two ways: a fast one for plain bodies, and an exact one that names every fault.

- `exact`: JSON parsed without loss, and faults told by their place.
- `plain`: plain arrays of numbers, straight into an array.
- `ragged`: the body of `POST /encode`.
- `ndjson`: one sequence a line, of a stream.
- `openai`: the body of OpenAI's embeddings.
- `instances`: the body of Vertex AI and of KServe V1.
"""
