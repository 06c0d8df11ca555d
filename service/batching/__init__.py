"""What runs together next.

Read in this order:

- `jobs`: what goes in and comes out: jobs of sequences, runs of entries.
- `cutting`: where to cut a sorted queue so that its batches take the least time together.
- `lanes`: a lane of a queue, and the batches it is cut into.
- `queue`: what waits of one model: who is admitted, and which sequences run together next.
- `sharing`: the runners' time, shared out among the models.
- `batches`: a batch padded and run, its culprits found, and its rows brought together again.
- `runners`: the threads that run batches; one that dies or hangs is replaced.
- `engine`: the event loop's side: requests in, batches to runners or run here, answers back.
"""
