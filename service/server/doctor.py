"""Show what a bug report needs: versions, providers, CPUs, memory, the port, the settings that are set.

No value of a setting is shown, since some are keys.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime
from pydantic import ValidationError

from service import __version__
from service.costs.cpus import available_cpus, name_cpu, read_cpu_quota
from service.costs.memory import available_bytes
from service.server.port import bind_port
from service.settings import ROOT, SHIPPED_MODEL, Settings, tell_faults, unknown_variables

SERVING = ("onnxruntime", "onnxruntime-gpu", "numpy", "fastapi", "uvicorn", "pydantic", "orjson")
EXTRAS = {
    "train": "torch",
    "export": "onnx",
    "bulk": "pyarrow",
    "otel": "opentelemetry-sdk",
    "grpc": "grpcio",
}  # by one that tells


def main(arguments: list[str]) -> None:
    """Print a line for each thing, and exit with 1 if one of them keeps the service from starting.

    Args:
        arguments: the command line, without the program.
    """
    argparse.ArgumentParser(prog="lengthwise doctor", description=__doc__).parse_args(arguments)
    is_well = True
    for name, said, is_good in examine():
        is_well &= is_good
        sys.stdout.write(f"{name:<11} {said}{'' if is_good else '  <- the service cannot start'}\n")
    sys.exit(int(not is_well))


def examine() -> Iterator[tuple[str, str, bool]]:
    """Yield what each line is of, what it says, and whether the service can start with it."""
    yield "lengthwise", f"{__version__}, in {ROOT}", True
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}", True
    yield "system", f"{platform.platform()}, {' '.join(filter(None, platform.libc_ver())) or 'no glibc'}", True
    yield "packages", ", ".join(f"{name} {found}" for name in SERVING if (found := find_version(name))), True
    yield "extras", ", ".join(f"{name}: {find_version(one) or 'no'} ({one})" for name, one in EXTRAS.items()), True
    yield "providers", ", ".join(onnxruntime.get_available_providers()), True
    yield "telemetry", "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on", True
    quota = read_cpu_quota()
    bound = "no quota" if quota is None else f"a quota of {quota:g}"
    yield "CPUs", f"{available_cpus()} may be kept busy, of {os.cpu_count()}, by {bound}; {name_cpu()}", True
    yield "memory", describe_memory(), True
    yield from examine_settings()


def examine_settings() -> Iterator[tuple[str, str, bool]]:
    """Yield what the settings in the environment say, and whether the model and the port are there."""
    named = sorted(name for name in os.environ if name.startswith("LENGTHWISE_"))
    unknown = unknown_variables()
    said = [f"{name} (there is no such setting)" if name in unknown else name for name in named]
    yield "variables", ", ".join(said) or "none is set", True
    try:
        settings = Settings()
    except ValidationError as error:
        yield "settings", tell_faults(error), False
        return
    model = settings.models or settings.model
    shipped = " (the shipped one)" if model == SHIPPED_MODEL else ""
    fault = "" if os.access(model, os.R_OK) else " cannot be read" if os.access(model, os.F_OK) else " is not there"
    yield "model", f"{model}{shipped}{fault}", not fault
    yield "cache", describe_cache(settings.cache_dir), True
    fault = try_port(settings.host, settings.port)
    yield "port", f"{settings.host}:{settings.port} {fault or 'is free'}", not fault


def find_version(name: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def describe_cache(folder: Path) -> str:
    """Say whether measurements can be kept in a folder; nothing but time is lost if they cannot."""
    try:
        folder = folder.expanduser()
    except RuntimeError:
        return f"{folder}, cannot be written, since the user has no home"
    there = next(one for one in (folder, *folder.parents) if os.access(one, os.F_OK))
    return f"{folder}, {'can' if os.access(there, os.W_OK) else 'cannot'} be written"


def describe_memory() -> str:
    """Say how much memory this process may still take, of the machine's."""
    free = available_bytes()
    total = hasattr(os, "sysconf") and os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if free is None or not total:
        return "the system does not say"
    return (
        f"{free / 2**30:.1f} GiB may be taken, within the limits of control groups; the machine has {total / 2**30:.1f}"
    )


def try_port(host: str, port: int) -> str:
    """Say why a port cannot be listened on as the service does; nothing if it can."""
    with ExitStack() as opened:
        try:
            for listener in [opened.enter_context(one) for one in bind_port(host, port)]:
                listener.listen(1)
        except OSError as error:
            return f"cannot be listened on: {error.strerror}"
    return ""
