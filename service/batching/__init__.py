"""What runs together next.

Read in this order:

- `jobs`: what goes into a queue and comes out of it: jobs of sequences, runs of entries.
- `policy`: the tuned numbers that decide what runs next.
- `cutting`: where to cut a sorted queue so that its batches take the least time together.
- `lanes`: a lane of a queue, and the batches it is cut into.
- `queue`: what waits of one model, and which of its sequences run together next.
- `sharing`: all that waits and runs, in one owner: `submit`, `withdraw`, `schedule`, `update`, `forecast`.
- `batches`: a request taken apart into rows and put together again; a batch run, and its culprits found.
- `runners`: the threads that run batches; one that dies or hangs is replaced.
- `engine`: the event loop's side: requests in, runs on a runner or here, answers back.
- `refining`: what the calibration left out, measured in idle time.
"""
