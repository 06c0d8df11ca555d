"""The one command: `lengthwise serve`, `train`, `export`, `encode` and the others.

- `__main__`: runs the program that is named.
- `commands`: the names, each with its program, what it is for and an example.
- `extras`: the sentence for a package that is missing.
- `completion`: what shells need to complete command lines.
"""
