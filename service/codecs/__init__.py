"""Bytes to sequences and embeddings to bytes, one module a format."""
