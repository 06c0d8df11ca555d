"""The stores of Google and Azure: Google's over its own protocol, Azure's as far as a machine without one can tell.

What Azure's emulator, which is not a package of Python, was made to do by hand is in the log of measurements.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pyarrow import fs

from bulk.mistakes import BulkError
from bulk.stores import Place, open_place
from tests.bulk.command import (
    download,
    encode,
    hash_folder,
    read_embeddings,
    refuse,
    upload,
    write_jsonl,
    write_parquet,
)
from tests.conftest import FEATURES

needs_google = pytest.mark.skipif(find_spec("gcp_storage_emulator") is None, reason="its emulator is not installed")


SERVER = """
import sys
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="made")
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def google() -> Iterator[Callable[[str], Place]]:
    """A server that speaks Google's protocol, with a bucket `made`: what opens a place in it.

    It is a process of its own: with it in this one, reads of pyarrow stand still.
    """
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield lambda name: open_place(f"gs://anonymous@made/{name}?scheme=http&endpoint_override=127.0.0.1:{port}")
        process.communicate()


@needs_google
def test_a_bucket_of_google_holds_the_bytes_of_a_local_run(google: Callable[[str], Place], tmp_path: Path) -> None:
    """Parts, problems and plan, from what is read there, too; all is done the second time, and another plan refused."""
    rows = [{"id": row, "sequence": [[float(row)] * FEATURES] * (row % 9)} for row in range(40)]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "here")
    out = google("out")
    for _ in range(2):
        encode(file, "-o", out)
        assert hash_folder(download(out, tmp_path / f"there{_}")) == hash_folder(tmp_path / "here")
    assert "on_error was 'null' and is 'drop'" in refuse(file, "-o", out, "--on-error", "drop")


@needs_google
def test_what_is_in_a_bucket_of_google_is_read(
    google: Callable[[str], Place], sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """By its name, by its folder or by a pattern; of an array, the part that a shard needs."""
    write_parquet(tmp_path / "in.parquet", sequences)
    np.save(tmp_path / "in.npy", np.stack([sequences[7][:5]] * 30))
    found = {}
    for kind in ("parquet", "npy"):
        here = tmp_path / f"in.{kind}"
        there = upload(here, google(f"data/day=1/in.{kind}"))
        for name, given in (("here", here), ("there", there)):
            encode(given, "-o", tmp_path / f"{kind}-{name}")
            found[name] = read_embeddings(tmp_path / f"{kind}-{name}")
        np.testing.assert_array_equal(found["here"], found["there"])
    for number, name in enumerate(("data", "data/day=*/*.parquet")):
        encode(google(name), "-o", tmp_path / str(number))
        assert len(read_embeddings(tmp_path / str(number))) == len(sequences)


@needs_google
def test_an_object_of_google_is_there_once_it_is_whole(google: Callable[[str], Place]) -> None:
    """Neither while it is written, nor if that fails."""
    place = google("whole/part-00000.jsonl")

    def write(*, fails: bool) -> Iterator[bytes]:
        yield b"a row\n" * 99
        assert not place.exists
        if fails:
            raise OSError("the other rows cannot be read")

    with pytest.raises(BulkError, match="the other rows"):
        place.put(write(fails=True))
    assert not place.exists
    place.put(write(fails=False))
    assert place.read() == b"a row\n" * 99


KEY = "a2V5"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("abfs://made@account.dfs.core.windows.net/x/y", "made/x/y"),
        ("abfss://account.blob.core.windows.net/made/x/y", "made/x/y"),
        ("abfs://account@127.0.0.1:9/made/x/y?enable_tls=false", "made/x/y"),
        ("abfs://made@account.dfs.core.windows.net", "made"),
    ],
)
def test_a_place_in_azure_begins_with_its_container(address: str, path: str) -> None:
    """However the address names the account; what pyarrow takes does not begin with a slash."""
    place = open_place(address)
    assert place.path == path
    assert (place / "part").path == f"{path}/part"


def test_a_key_of_azure_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Azure's own command line has it; pyarrow would look for none there, and an address with one is refused."""

    def tell() -> dict[str, Any]:
        told: dict[str, Any] = open_place("abfs://made@account.dfs.core.windows.net/x").files.__reduce__()[1][0]
        return {name: told[name] for name in ("account_name", "account_key", "sas_token")}

    for name in ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert tell() == {"account_name": "account", "account_key": "", "sas_token": ""}
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=b")
    assert tell() == {"account_name": "account", "account_key": "", "sas_token": "sv=1&sig=b"}
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    assert tell() == {"account_name": "account", "account_key": KEY, "sas_token": ""}


def test_a_store_that_cannot_rename_holds_the_bytes_of_a_local_run(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Azure's accounts without folders: drafts are copied, and none is left."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "here")

    def refuse_to(*_: str) -> None:
        raise NotImplementedError("Move() is not implemented")

    monkeypatch.setattr(fs.FSSpecHandler, "move", refuse_to)
    out = open_place("memory://flat/out")
    encode(file, "-o", out)
    assert hash_folder(download(out, tmp_path / "there")) == hash_folder(tmp_path / "here")


def test_a_store_that_lets_nobody_in_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a sentence: pyarrow says what is wrong with Azure's credentials by an error that no system has."""
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_SAS_TOKEN", raising=False)
    there = open_place("abfs://account@127.0.0.1:9/made/x?enable_tls=false")  # no token is sent without TLS
    for look in (lambda: there.exists, there.list_files, lambda: there.put([b"a"]), there.make_folder):
        with pytest.raises(BulkError, match=r"made/x.* cannot be"):
            look()
    assert "made/x" in refuse(there, "-o", tmp_path / "out")
