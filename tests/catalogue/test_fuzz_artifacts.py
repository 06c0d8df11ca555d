"""Artifacts, damaged: each is refused for a reason, or its golden vectors hold; and the fuzzer would tell if not."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import bench.stress.damage
import bench.stress.fuzz_artifacts
from bench.stress.damage import DAMAGES, draw_file
from bench.stress.fuzz_artifacts import fuzz, main, make_small, try_artifact
from service.catalogue.vetting.examiner import Examiner
from service.encoder.session import EncoderSession
from service.errors import GoldenMismatch

FILES = 90  # `python -m bench fuzz-artifacts` tries thousands
SHARES = 2  # of the files, tried at once


def test_damaged_artifacts_are_refused_or_hold_their_proof(artifact: Path) -> None:
    """Of files of every kind of damage none ends this process, or passes with what it was not proven to give."""
    seeds = [make_small(), artifact.read_bytes()]
    with ThreadPoolExecutor(SHARES) as threads:  # almost all the time is that of the processes that try the files
        tallies = [*threads.map(lambda first: fuzz(seeds, range(first, FILES, SHARES)), range(SHARES))]
    assert [tally.escapes for tally in tallies] == [{}] * SHARES
    assert sum(sum(tally.outcomes.values()) for tally in tallies) == sum(tally.files for tally in tallies) == FILES
    assert 0 < sum(tally.served for tally in tallies) < FILES


def test_whole_artifacts_are_served_before_they_are_damaged(artifact: Path) -> None:
    """So that the damage is what is tried; a file is drawn again by its number."""
    seeds = [make_small(), artifact.read_bytes()]
    with closing(Examiner()) as examiner:
        for seed in seeds:
            assert try_artifact(seed, examiner) == "served, its golden vectors hold"
    for number in range(len(DAMAGES)):
        assert draw_file(number, seeds) == draw_file(number, seeds)
        assert {draw_file(number + len(DAMAGES) * more, seeds) for more in range(9)} - set(seeds)


def test_what_should_not_pass_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the service could not replay what passed, the fuzzer names the file, and exits with 1."""

    def forget(session: EncoderSession) -> float | None:
        raise GoldenMismatch(session.file, 1.0, 1e-5)

    small = make_small()
    monkeypatch.setattr(EncoderSession, "replay_golden", forget)
    monkeypatch.setattr(bench.stress.fuzz_artifacts, "make_small", lambda: small)
    monkeypatch.setattr(bench.stress.damage, "DAMAGES", [lambda content, _seeds, _draw: content])
    monkeypatch.setattr("sys.argv", ["fuzz_artifacts", "--files", "2", "--first", "7"])
    with pytest.raises(SystemExit, match="1"):
        main()
    printed = capsys.readouterr().out
    assert "file 7: GoldenMismatch: file.onnx does not reproduce its golden vectors" in printed
    assert '{"files": 2, "served": 0, "deaths": 0, "escapes": 1,' in printed
