"""What runs together next.

Read in this order:

- `jobs`: jobs of sequences, which go into a queue, and runs of entries, which come out of it.
- `policy`: the tuned numbers that decide what runs next.
- `cutting`: where to cut a sorted queue so that its batches take the least time together.
- `lanes`: a lane of a queue, and the batches it is cut into.
- `queue`: the sequences that wait for one model, and which of them run together next.
- `sharing`: the one owner of all that waits and runs: `submit`, `withdraw`, `schedule`, `update`, `forecast`.
- `batches`: takes requests apart into rows and puts them together again; runs a batch, and finds its culprits.
- `runners`: the threads that run batches; one that dies or hangs is replaced.
- `engine`: the event loop's side: requests in, runs on a runner or here, answers back.
- `refining`: measures in idle time what the calibration left out.
"""
