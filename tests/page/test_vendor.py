"""What others wrote is carried as npm published it, with its licence."""

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
