"""Measures: figures, not tests."""
