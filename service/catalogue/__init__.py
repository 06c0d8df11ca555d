"""Which encoders there are, and how a file becomes one of them.

- `models`: the encoders that are served, by name.
- `loading`: from a file to a model: read, vetted, opened, proven, and measured.
- `repository`: the files they come from, looked at again when these change.
- `vetting/`: whether a new file can be believed.
"""
