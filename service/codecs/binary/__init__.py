"""Formats that hold arrays as they lie in memory.

- `arrays`: an array that came, checked against what the model reads.
- `npy`: one array of numpy's.
- `npz`: several of them, zipped.
- `arrow`: a stream of Apache Arrow's record batches.
"""
