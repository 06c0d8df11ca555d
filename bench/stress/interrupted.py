"""`python -m bench interrupted`: bulk killed at random moments, and shared by programs, one of which is started twice.

One process imports everything and forks each program, so that what is killed is mostly at work. Each output must be,
byte for byte, that of a run that nobody disturbed, problems included. Prints what happened and ends with one JSON line;
the exit code is 1 if any byte differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bulk.__main__ import main as encode
from bulk.sources import wanted
from service.settings import SHIPPED_MODEL

LONGEST = 40  # steps of the sequences; every so manieth has none, which is a bad row
MOST_TRIES = 10  # for each kill
LONGEST_MOMENT = 0.05  # seconds between the last part that is waited for and the kill


def write_input(file: Path, rows: int, features: int) -> None:
    """Write JSON lines of an id and a sequence."""
    draw = np.random.default_rng(1)
    with file.open("w", encoding="ascii") as lines:
        for row in range(rows):
            steps = draw.standard_normal((row % LONGEST, features)).astype(np.float32)
            lines.write(json.dumps({"id": row, "sequence": steps.tolist()}) + "\n")


def start(*arguments: object) -> int:
    """Fork a program that encodes, and return its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        with Path(os.devnull).open("w", encoding="ascii") as nowhere:
            sys.stderr = nowhere
            encode([*map(str, arguments)])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Wait for a program, and return its exit code; that of a killed one is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hash_folder(folder: Path) -> dict[str, str]:
    """Hash every file in a folder, drafts that were left behind included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def kill_often(draw: random.Random, parts: int, kills: int, folder: Path, *arguments: object) -> int:
    """Kill a program again and again, each after some more parts and a moment, then let it end.

    One that ended before its kill came is not counted: its output is removed, and it begins anew.

    Returns:
        How many died of it: as many as are wanted, unless kills keep coming too late.
    """
    died = 0
    for _ in range(MOST_TRIES * kills):
        if died == kills:
            break
        until, moment = count_parts(folder) + draw.randint(0, parts // kills - 1), draw.uniform(0, LONGEST_MOMENT)
        pid = start(*arguments, folder)
        while count_parts(folder) < until and is_running(pid):
            time.sleep(0.001)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        if wait(pid) == -signal.SIGKILL:
            died += 1
        else:
            shutil.rmtree(folder)
    require([wait(start(*arguments, folder))])
    return died


def is_running(pid: int) -> bool:
    """Whether a program has not ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def count_parts(folder: Path) -> int:
    """Count the parts that are done."""
    return sum(1 for _ in folder.glob("part-*.parquet"))


def share(programs: Iterable[str], *arguments: object) -> None:
    """Let programs do their shares at once."""
    pids = [start(*arguments, "--shard", program) for program in programs]
    require([wait(pid) for pid in pids])


def require(codes: list[int]) -> None:
    """End with a sentence if a program failed."""
    if any(codes):
        sys.exit(f"bulk ended with {', '.join(map(str, codes))}")


def main(arguments: list[str] | None = None) -> None:
    """Disturb it, and compare."""
    parser = argparse.ArgumentParser(prog="python -m bench interrupted", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--features", type=int, default=12, help="that the model reads")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=2**18, help="of the input in a shard")
    options = parser.parse_args(arguments)
    wanted.SHARD_BYTES = options.shard_bytes
    draw = random.Random(options.seed)  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "in.jsonl"
        write_input(file, options.rows, options.features)
        same = (file, "--model", options.model, "--quiet", "-o")
        require([wait(start(*same, folder / "alone"))])
        expected = hash_folder(folder / "alone")
        parts = count_parts(folder / "alone")
        died = kill_often(draw, parts, options.kills, folder / "killed", *same)
        share(("0/4", "1/4", "2/4", "3/4", "2/4"), *same, folder / "shared")
        outcomes = {name: hash_folder(folder / name) == expected for name in ("killed", "shared")}
    print(f"{options.rows:,} rows in {parts} parts; {died} of {options.kills} kills hit")
    for name, is_same in outcomes.items():
        print(f"{name:8} {'the same' if is_same else 'DIFFERS'}")
    told = {"bench": "interrupted", "rows": options.rows, "parts": parts, "died": died, **outcomes}
    print(json.dumps(told | {"errors": "errors.jsonl" in expected}))
    sys.exit(not all(outcomes.values()))
