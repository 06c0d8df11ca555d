"""Bytes to questions, and answers to bytes: a module for each format.

- `question`: what every format is read into, and what every answer is written from.
- `options`: what a request may ask beside its sequences.
- `compression`: bodies that come compressed.
- `large`: from which size on a body leaves the event loop.
- `json/`, `kserve/`, `binary/`: the formats.
"""
