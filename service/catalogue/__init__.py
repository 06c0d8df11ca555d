"""Which encoders there are, and how a file becomes one of them.

- `models`: the encoders that are served, by name.
- `loading`: makes a model of a file: reads, vets, opens, proves and measures it.
- `ahead`: what is loaded before workers are forked, so that they share its weights.
- `repository`: the files that models come from, looked at again when they change.
- `card`: `lengthwise inspect`, what a file says of itself, for people.
- `vetting/`: decides whether a new file can be believed.
"""
