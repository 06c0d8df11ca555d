"""What `python -m bench bulk` compares: the same sequences in each file, and programs that give the same embeddings."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.speed import bulk, today
from tests.bulk.command import encode, read_embeddings
from tests.conftest import FEATURES, MADE

LENGTHS = [3, 9, 1, 5, 40, 2] * 12


def test_programs_that_are_compared_give_the_same_embeddings(tmp_path: Path) -> None:
    """From either file, sorted or in order: how they are cut changes no bit."""
    bulk.write_npz(tmp_path / "in.npz", LENGTHS, FEATURES)
    bulk.write_parquet(tmp_path / "in.parquet", LENGTHS, FEATURES)
    found = []
    for name in ("npz", "parquet"):
        encode(tmp_path / f"in.{name}", "-o", tmp_path / name)
        found.append(read_embeddings(tmp_path / name))
    for program in (today.in_memory, today.arrival):
        program(tmp_path / "in.parquet", MADE, tmp_path / "out.parquet")
        found.append(np.stack(pq.read_table(tmp_path / "out.parquet")["embedding"].to_numpy()))
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


def test_a_programs_time_and_memory_are_its_own(tmp_path: Path) -> None:
    """The seconds are those that bulk says, the memory is what the kernel says of its process."""
    file, lengths = tmp_path / "in.parquet", LENGTHS * 150  # bulk says tenths of a second
    bulk.write_parquet(file, lengths, FEATURES)
    spent = bulk.start(["bulk", str(file), "-o", str(tmp_path / "out"), "--model", str(MADE), "--quiet"], len(lengths))
    assert spent.sequences == len(lengths)
    assert 0 < spent.seconds < spent.whole_seconds
    assert 20 < spent.own_mb < spent.peak_mb < 2000


def test_the_raw_limit_counts_what_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass over all sequences, by the clock and by the CPUs."""
    monkeypatch.setattr(today, "RAW_SECONDS", 0.0)
    file = tmp_path / "in.npz"
    bulk.write_npz(file, LENGTHS[:12], FEATURES)
    told = today.raw(file, MADE, file)
    assert told["sequences"] == 12 * today.RAW_PASSES
    assert told["seconds"] > 0
    assert told["cpu_seconds"] > 0
