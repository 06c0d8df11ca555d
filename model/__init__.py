"""Learns: the torch encoder, the data it is trained on, and the run directory a training leaves behind."""

from model.extras import explain_missing_packages
from model.threads import prepare_threads

explain_missing_packages()
prepare_threads()  # before anything here imports torch or numpy
