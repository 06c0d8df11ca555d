"""Decides whether a new artifact can be served, in a process that may die of it.

- `files`: reads a file whole, or not at all.
- `findings`: what a trial may find, and the bounds it has.
- `examiner`: starts a fresh process for each file, and tells how it ended.
- `trial`: the code of that process: it bounds itself, then loads the file and runs it.
- `structure`: checks what an ONNX file holds, before ONNX Runtime sees it.
- `command`: `lengthwise check`, the same from a command line.
"""
