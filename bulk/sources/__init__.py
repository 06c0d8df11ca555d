"""Sequences read from files, a shard at a time.

Read in this order:

- `wanted`: what is read of each row, and what every source offers.
- `parsing`: rows of JSON and texts, read as the model reads them.
- `parquet`: Parquet, by row groups.
- `stream`: the bytes of a file, plain or compressed.
- `lines`: JSON lines and texts.
- `table`: CSV, a step or a text a line.
- `batch`: OpenAI's batch requests.
- `arrays`: arrays of numpy, mapped from their files.
- `files`: lists the files that are meant, picks the source of each, and cuts it into shards.
"""
