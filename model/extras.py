"""One sentence for a program whose extra is not installed: the package it lacks, and how to install it."""

import sys
from types import TracebackType

EXTRAS = {"model": "train", "export": "export", "bench": "bench"}  # of the programs in each folder
OURS = {"service", "lengthwise_client", *EXTRAS}


def explain_missing_packages() -> None:
    """From now on, end a program that lacks a package with a sentence in place of a traceback."""
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    spec = sys.modules["__main__"].__spec__  # of `python -m model`; None for a script or an interpreter
    program = "" if spec is None else spec.name.removesuffix(".__main__")
    extra = EXTRAS.get(program.partition(".")[0])
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if extra is None or not missing or missing in OURS:
        sys.__excepthook__(kind, error, trace)
        return
    remedy = f"{sys.executable} -m pip install '.[{extra}]'"
    if extra != "bench":
        remedy = f"run `make install` and use .venv/bin/python, or {remedy}"
    print(f"{program}: {missing} is not installed; the extra {extra!r} brings it: {remedy}", file=sys.stderr)
