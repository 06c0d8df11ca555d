"""Files in, files out: every sequence of a data set encoded once, however often the program is stopped.

- `plan`: which shards there are, of which input, for which model; written down before the first is encoded.
- `planning`: makes the plan of an output folder, or goes on with the one that it has.
- `sources/`: sequences read from Parquet, JSON lines, CSV, numpy arrays and texts, a shard at a time.
- `rows`: the sequences of a shard, each checked; what is wrong with one becomes its problem.
- `encoder`: a shard sorted by length, cut by the service's costs, and run on all CPUs.
- `remote`: in its place, a service that is asked through the client.
- `pace`: how many requests it should have at once.
- `sinks/`: the parts of the output, each under its final name only once it is whole.
- `progress`: how far it is, for people and for logs.
- `__main__`: the command line.
- `run`: shards read, encoded and written at the same time, until all are done or a signal says stop.
- `cluster`: the same shards, handed to actors of Ray.
- `stretches`: which of them an actor is handed next.
- `stores`: files and folders, of this machine or of an object store, by their names.
- `addresses`: opens stores by their addresses.
- `mistakes`: what ends the program in a sentence.
"""

import os

# Before pyarrow is imported: its own allocator keeps memory that the heap of all else cannot use.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
