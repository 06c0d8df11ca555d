"""Whether a new artifact can be served: found out in a process that may die of it.

- `files`: a file read whole, or not at all.
- `findings`: what is learned of a file, and within which bounds.
- `examiner`: starts a fresh process for each file, and tells how it ended.
- `trial`: that process: it bounds itself, then loads the file and runs it.
- `structure`: what an ONNX file may hold, checked before ONNX Runtime sees it.
- `command`: `python -m service examine`, the same from a command line.
"""
