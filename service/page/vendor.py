"""Fetch what others wrote from npm, checked, with licences: `python -m service.page.vendor`, or `--check`.

Each package is named with its version and the hash that npm published for its archive, so that nobody can change what
is fetched. With `--check` nothing is fetched: the files that are here are held to their own hashes.
"""

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "page" / "vendor"


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm, and what is taken of it.

    Attributes:
        name: what npm calls it.
        version: the one version that is taken.
        integrity: SHA-512 of its archive in base64, as npm published it.
        files: from paths in the archive to names here.
    """

    name: str
    version: str
    integrity: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "preact",
        "11.2.0",
        "/HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==",
        {"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "hooks.js", "LICENSE": "preact-LICENSE.txt"},
    ),
    Package(
        "htm",
        "3.1.1",
        "983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        {"dist/htm.module.js": "htm.js", "LICENSE": "htm-LICENSE.txt"},
    ),
    Package(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {"dist/uPlot.iife.min.js": "uplot.js", "dist/uPlot.min.css": "uplot.css", "LICENSE": "uplot-LICENSE.txt"},
    ),
)
# A browser finds a module by its address, and a map from names to addresses would be a script in the page. The maps of
# sources are not carried.
CHANGES = (
    (b'from"preact"', b'from"./preact.js"'),
    (b"\n//# sourceMappingURL=preact.mjs.map", b""),
    (b"\n//# sourceMappingURL=hooks.mjs.map", b""),
)
HASHES = "hashes.txt"


def fetch(package: Package) -> dict[str, bytes]:
    """Return the files of a package, by their names here; npm fetches it from wherever it is told to.

    Raises:
        ValueError: the archive is not the one that was published.
    """
    npm = shutil.which("npm") or sys.exit("vendor: npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, f"{package.name}@{package.version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - all of it is written here
        (archive,) = Path(folder).iterdir()
        return unpack(package, archive)


def unpack(package: Package, archive: Path) -> dict[str, bytes]:
    """Return the files of a package, by their names here.

    Raises:
        ValueError: the archive is not the one that was published.
    """
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise ValueError(f"{archive.name} has the hash {found}, and {package.integrity} was published")
    files = {}
    with tarfile.open(archive) as opened:
        for path, name in package.files.items():
            member = opened.extractfile(f"package/{path}")
            if member is None:
                raise ValueError(f"{archive.name} has no file {path}")
            files[name] = change(member.read())
    return files


def change(content: bytes) -> bytes:
    """Return a file as it is carried."""
    for old, new in CHANGES:
        content = content.replace(old, new)
    return content


def write_hashes(files: dict[str, bytes]) -> str:
    """Return the lines that `sha256sum --check` reads."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))


def find_changed() -> list[str]:
    """Name the files here that are not what was fetched."""
    lines = (HERE / HASHES).read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    here = {path.name: path.read_bytes() for path in HERE.iterdir() if path.name != HASHES}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in here.items()}
    return sorted(name for name in expected | found if expected.get(name) != found.get(name))


def main(arguments: list[str] | None = None) -> None:
    """Fetch the files, or check those that are here."""
    parser = argparse.ArgumentParser(prog="python -m service.page.vendor", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fetch nothing, and fail if a file differs")
    options = parser.parse_args(arguments)
    if options.check:
        if changed := find_changed():
            sys.exit(f"vendor: not as they were fetched: {', '.join(changed)}")
        return
    files = {name: content for package in PACKAGES for name, content in fetch(package).items()}
    for name, content in files.items():
        (HERE / name).write_bytes(content)
    (HERE / HASHES).write_text(write_hashes(files), encoding="utf-8")


if __name__ == "__main__":
    main()
