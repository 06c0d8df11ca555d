"""What a run takes here.

Read in this order:

- `model`: the seconds of a run over B rows of T steps, from measurements, corrected by real runs.
- `measure`: how long runs over made batches take, several at a time.
- `calibrate`: which shapes are measured, and the file that keeps what was found.
- `cpus`: the CPUs this process may use, and how the kernel shares them out.
- `memory`: the memory this process holds, and how much more there is.
- `cgroups`: where the kernel keeps what a control group may use.
- `board`: what the workers of a service tell each other, so that one uses the CPUs that others leave idle.
"""
