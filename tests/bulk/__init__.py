"""Bulk encoding."""
