"""Sequences, the manifest, and sessions."""
