"""The sentence for a package that is not installed, with the command that installs it."""

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def explain(name: str, missing: str, extra: str, checkout: Path | None) -> str:
    """Say what a command lacks, and how to get it.

    Args:
        name: the command's name.
        missing: the package that could not be imported.
        extra: the extra that brings it; empty if every installation does.
        checkout: the folder of the project if the command runs from there; None if it is installed.
    """
    said = f"which the extra {extra!r} brings" if extra else "which every installation brings"
    wanted = find_requirement(extra, checkout)
    return f"lengthwise: {name} needs {missing}, {said}: {sys.executable} -m pip install '{wanted}'"


def find_requirement(extra: str, checkout: Path | None) -> str:
    """Return what pip is to install, from where it installed the project; a registry may have another of its name."""
    brackets = f"[{extra}]" if extra else ""
    if checkout is not None:
        return f"{checkout}{brackets}"
    try:
        told = json.loads(distribution("lengthwise").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # somebody copied it here
        told = {}
    if "url" not in told:
        return f"lengthwise{brackets}"
    vcs = told.get("vcs_info")
    place = f"{vcs['vcs']}+{told['url']}@{vcs['commit_id']}" if vcs else told["url"]
    return f"lengthwise{brackets} @ {place}"
