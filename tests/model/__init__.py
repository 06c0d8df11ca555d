"""Data, encoders and training."""
