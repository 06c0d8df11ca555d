"""Learns: the torch encoder, the data it is trained on, and the run directory that a training leaves.

- `__main__`: the commands.
- `training/`: from a data set to a run directory.
- `tasks/`: what encoders are trained to do.
- `data/`: the sequences they learn from.
- `encoder/`: the encoder itself.
- `threads`: how many threads learn and export.
- `extras`: one sentence for a program whose packages are not installed.
"""

from model.extras import explain_missing_packages
from model.threads import prepare_threads

explain_missing_packages()
prepare_threads()  # before anything here imports torch or numpy
