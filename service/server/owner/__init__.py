"""The process that owns a GPU: whatever the others want run there at a time, it runs as one batch.

- `keeping`: the first process's side: starts an owner for each GPU, and starts it anew when it ends.
- `process`: the owner itself: takes channels and what is asked on them, until the first process has gone.
- `graphs`: a graph that it loaded, and what runs of it cost.
- `blocks`: rows that a channel hands in, laid out as one batch with others', and what a run gave handed back.
- `choosing`: which of the blocks that wait run together next.
- `merging`: the two threads that do it in turns: one assembles a batch while the other's runs.
"""
