"""Bytes to questions, and answers to bytes: a module for each format.

- `question`: what every format is read into, and what a format says of itself.
- `formats`: the formats of `POST /encode`, a line each.
- `options`: what a request may ask beside its sequences.
- `compression`: bodies that come compressed.
- `large`: from which size on a body leaves the event loop.
- `json/`, `kserve/`, `binary/`: the formats.
"""
