"""Sequences to learn from: files and packages into data sets, and data sets into padded batches.

- `datasets`: the types, a data set and its labelled sequences.
- `catalogue`: the data sets by name.
- `named`, `text_datasets`: those of numbers and token ids, and those of texts.
- `files`, `checks`: a user's file into a data set, and what each row must be.
- `readers`, `tables`: the rows of JSONL and NPZ, and of Parquet and CSV.
- `texts`: texts into token ids.
- `summary`: what was read, in a sentence.
- `teachers`: encoders whose vectors of texts are learned.
- `splits`: what is held out, and the control without order.
- `batches`: padded batches of sequences alike in length.
"""
