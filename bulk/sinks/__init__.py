"""The parts of the output: one for each shard, under its final name only once it is whole.

A part that is done is never written again, and a part written twice at once is the same both times. Read in this order:

- `sink`: what every kind of output has.
- `parquet`: the columns that are kept, and the outputs beside them.
- `lines`: JSON lines, and the answers to OpenAI's batch requests.
- `array`: one array of numpy, mapped into memory.
- `files`: picks the kind, and clears up once all parts are there.
"""
