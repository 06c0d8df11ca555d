"""What others wrote is carried as npm published it, with its licence."""

import base64
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from service.page import vendor


def test_carried_files_are_those_that_were_fetched() -> None:
    """Each has the hash that was written down when its archive had npm's own."""
    assert vendor.find_changed() == []
    vendor.main(["--check"])


def test_a_changed_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that was added or is missing."""
    here = Path(shutil.copytree(vendor.HERE, tmp_path / "vendor"))
    monkeypatch.setattr(vendor, "HERE", here)
    (here / "htm.js").write_bytes((here / "htm.js").read_bytes() + b"\n")
    (here / "more.js").touch()
    (here / "uplot.css").unlink()
    with pytest.raises(SystemExit, match=r"htm\.js, more\.js, uplot\.css"):
        vendor.main(["--check"])


@pytest.mark.parametrize("package", vendor.PACKAGES, ids=lambda package: package.name)
def test_each_package_comes_with_its_licence(package: vendor.Package) -> None:
    """It stands beside the code, in its own words."""
    licence = (vendor.HERE / f"{package.name}-LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence or "Apache License" in licence


def test_an_archive_that_was_not_published_is_refused(tmp_path: Path) -> None:
    """Its hash decides, before anything of it is read."""
    archive = tmp_path / "htm-3.1.1.tgz"
    with tarfile.open(archive, "w:gz") as written:
        member = tarfile.TarInfo("package/dist/htm.module.js")
        member.size = 4
        written.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(ValueError, match="was published"):
        vendor.unpack(vendor.PACKAGES[1], archive)


def test_what_npm_gives_is_unpacked_and_its_hashes_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in npm's place gives an archive: its files stand here by their names, changed as carried."""
    archive, here, programs = (tmp_path / name for name in ("archive.tgz", "vendor", "programs"))
    here.mkdir()
    programs.mkdir()
    with tarfile.open(archive, "w:gz") as written:
        content = b'import{h}from"preact"'
        described = tarfile.TarInfo("package/dist/one.mjs")
        described.size = len(content)
        written.addfile(described, io.BytesIO(content))
    npm = programs / "npm"
    npm.write_text(f'#!/bin/sh\ncp {archive} "$4/"\n', encoding="utf-8")
    npm.chmod(0o755)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    package = vendor.Package("one", "1.0.0", digest, {"dist/one.mjs": "one.js"})
    monkeypatch.setattr(vendor, "HERE", here)
    monkeypatch.setattr(vendor, "PACKAGES", (package,))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    vendor.main([])
    assert (here / "one.js").read_bytes() == b'import{h}from"./preact.js"'
    vendor.main(["--check"])
