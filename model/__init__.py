"""Learns: the torch encoder, the data it is trained on, and the run directory a training leaves behind."""
