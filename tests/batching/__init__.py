"""What runs together next, and the engine."""
