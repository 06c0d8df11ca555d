"""Bytes to questions and answers to bytes, well formed or not."""
