"""The documents name what is there."""

import re
import shlex
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import drawing
from docs.generate import BLOCK, BLOCKS, FILES, PAGES, fill
from service import __version__

README = Path("README.md").read_text(encoding="utf-8")
MAKEFILE = Path("Makefile").read_text(encoding="utf-8")
DOCUMENTS = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md"), *Path("artifacts").glob("*.md")])
FOLDERS = {path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")}
DECISIONS = sorted(path for path in Path("docs/decisions").glob("*.md") if path.name != "index.md")


def test_readme_is_short() -> None:
    """README has at most 150 lines: the rest is in `docs/`."""
    assert len(README.splitlines()) <= 150


def test_readmes_pictures_are_there_and_small() -> None:
    """A visitor sees the page, light and dark, and the architecture, none of which is more than 60 kB."""
    named = set(re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^]]*\]\(([^)]+)\)', README))
    pictures = {Path(tag or link): Path(tag or link).stat().st_size for tag, link in named}
    assert {path.name for path in pictures} == {"try-readme.png", "try-readme-dark.png", "architecture.svg"}
    assert max(pictures.values()) <= 60_000
    for path in pictures:
        if path.suffix == ".png":  # as large as README says, so that the text below it does not jump
            width, height = struct.unpack(">II", path.read_bytes()[16:24])
            assert f'width="{width}" height="{height}"' in README


def test_readme_lists_the_folders() -> None:
    """Every folder in README's table exists, and every folder of the project with files of its own is in it."""
    listed = set(re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE))
    assert listed <= FOLDERS
    assert {path.split("/")[0] for path in list_files() if "/" in path and not path.startswith(".")} == listed


def list_files() -> list[str]:
    """Return the files of the project, by git if it is a checkout."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False)  # noqa: S607 - any git
    return listed.stdout.split() if listed.returncode == 0 else [str(path) for path in PAGES]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        file = target.partition("#")[0]
        assert "://" in target or not file or (document.parent / file).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_named_files_exist(document: Path) -> None:
    """Every path in a document that begins with a folder of the project leads to a file or a folder."""
    if document == Path("docs/measured/history.md"):
        pytest.skip("the log names what was there when it was written")
    named = re.findall(r"`((?:\w+/)+[\w.-]*)`", document.read_text(encoding="utf-8"))
    made = {"runs"}  # a training makes it
    for path in named:
        folder = path.split("/")[0]
        assert folder in made or folder not in FOLDERS or Path(path).exists(), path


@pytest.mark.parametrize("page", ["adding", "architecture"])
def test_named_code_exists(page: str) -> None:
    """Each class and each table that these pages name is in the code."""
    text = Path(f"docs/understand/{page}.md").read_text(encoding="utf-8")
    code = "".join(
        path.read_text(encoding="utf-8") for folder in ("service", "model") for path in Path(folder).rglob("*.py")
    )
    for name in re.findall(r"`([A-Z][a-z]+[A-Za-z]*|[A-Z]{4,}[A-Z_]*)`", text):
        assert re.search(rf"^(class {name}\b|{name}(:|\b.* =) ?)|^    {name} = ", code, re.MULTILINE), name


def test_documented_verbs_exist() -> None:
    """Each `make` verb a document uses is a target with a line in `make help`."""
    verbs = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        used = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
        assert set(used) <= verbs, document


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=str)
def test_generated_tables_are_what_the_code_says(page: Path) -> None:
    """Settings, metrics, problems, routes, formats and the like stand in the pages as `make docs` writes them."""
    assert page.read_text(encoding="utf-8") == fill(page), "run make docs"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_generated_files_are_what_the_code_says(file: Path) -> None:
    """What shells complete by, what `--help` shows and the drawn picture are as `make docs` writes them."""
    if file.name == "help.txt" and sys.version_info >= (3, 13):
        pytest.skip("argparse lays help out in another way")
    assert file.read_text(encoding="utf-8") == fill(file), "run make docs"


def test_the_words_of_the_drawn_picture_fit_their_boxes() -> None:
    """In DejaVu Sans, the widest of the fonts that it names: 6.8 pixels a letter were measured."""
    for box in drawing.BOXES:
        each = box.width // max(1, len(box.parts))
        words = [(line, box.width) for line in box.lines] + [(word, each) for part in box.parts for word in part]
        assert [line for line, width in words if 6.8 * len(line) > width - 20] == []


def test_every_generated_table_has_a_page() -> None:
    """No block is made for nobody."""
    used = {found[2] for page in PAGES for found in BLOCK.finditer(page.read_text(encoding="utf-8"))}
    assert used == set(BLOCKS)


def read_navigation() -> list[str]:
    """Return the pages that the navigation names."""

    def walk(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry if isinstance(entry, list) else entry.values()) for page in walk(one)]

    return walk(yaml.safe_load(Path("mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_every_page_is_in_the_navigation() -> None:
    """Each page stands in it, once."""
    assert sorted(read_navigation()) == sorted(str(path.relative_to("docs")) for path in Path("docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly from a copy."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy("mkdocs.yml", folder)
    shutil.copytree("docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures of the built pages are the site's own, so that they can be read offline."""
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(read_navigation())  # and one for what is not found
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\s\">]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|icon|preconnect|preload)[^>]*href=\"?([^\s\">]+)", text)
        assert loaded
        assert [url for url in loaded if "//" in url] == [], page


def test_a_dead_link_ends_the_build(site: Path) -> None:
    """A link to a page that is not there, or to a heading that is not, fails."""
    for target in ("nowhere.md", "start/quickstart.md#nowhere"):
        index = site.parent / "docs" / "index.md"
        kept = index.read_text(encoding="utf-8")
        index.write_text(f"{kept}\n[dead]({target})\n", encoding="utf-8")
        build = [sys.executable, "-m", "zensical", "build", "--strict"]
        assert subprocess.run(build, cwd=site.parent, capture_output=True, check=False).returncode != 0
        index.write_text(kept, encoding="utf-8")


def test_what_strangers_look_for_is_one_click_from_readme() -> None:
    """How to train on your own data, how to add a body format, and what happens at ten times the load."""
    for page, heading in (
        ("docs/start/your-data.md", "# Your own data"),
        ("docs/understand/adding.md", "## A body format"),
        ("docs/operate/load.md", "## At ten times the load"),
    ):
        assert f"]({page})" in README
        assert heading in Path(page).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", DECISIONS, ids=str)
def test_decisions_say_whether_they_hold(page: Path) -> None:
    """Each has a question, a choice, and as its status that it holds, or by what it was replaced."""
    _, *entries = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert entries
    for entry in entries:
        parts = re.findall(r"^\*\*(\w+)\.\*\*", entry, re.MULTILINE)
        assert parts[0] == "Question", entry
        assert "Choice" in parts, entry
        assert parts[-1] == "Status", entry
        status = entry.partition("**Status.** ")[2]
        assert re.match(r"(Holds|Holds in part|Replaced by \[[^]]+\]\([^)]+\))[.:]", status), entry


def test_decisions_lead_to_the_log_and_lose_none_of_it() -> None:
    """Every entry of the log is named by a decision, so that nothing measured is lost."""
    log = Path("docs/measured/history.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", log, re.MULTILINE)
    linked = {
        anchor for page in DECISIONS for anchor in re.findall(r"history\.md#([\w-]+)", page.read_text(encoding="utf-8"))
    }
    assert {slug(title) for title in titles} == linked


def slug(title: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


@pytest.mark.parametrize(
    ("verb", "installs", "runs"),
    [
        ("install", ".[train,export]", ""),
        ("train", ".[train,export]", "lengthwise train --dataset japanese-vowels --out runs/japanese-vowels"),
        ("export", ".[train,export]", "lengthwise export runs/japanese-vowels -o runs/japanese-vowels.onnx"),
        ("test", ".[dev]", "pytest -n 2 --dist worksteal --cov --cov-report=term"),
    ],
)
def test_verbs_install_what_they_need(verb: str, installs: str, runs: str, tmp_path: Path) -> None:
    """Training and exporting need no linter and no other server's client, and never touch the file that is served."""
    command = ["make", "--dry-run", verb, f"VENV={tmp_path}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace("'", "")
    assert ("[dev]" in printed) == (installs == ".[dev]")
    assert f"{installs}\n" in printed
    assert "torch==" in printed
    assert f"-m {runs}" in printed
    assert "artifacts/" not in printed


def dry_run(*arguments: str) -> str:
    """Return the commands that `make` would run, without quotes."""
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace("'", "")


def test_another_python_is_tested_without_torch_unless_told(tmp_path: Path) -> None:
    """A Python that is named gets an environment of its own, and torch only if it is asked for or there already."""
    python = (f"PYTHON={sys.executable}", f"VENV={tmp_path}")
    without = dry_run("test", *python)
    assert ".[test]\n" in without
    assert "torch" not in without
    assert "--cov" not in without
    assert "another-python" not in without
    assert "torch==9" in dry_run("test", *python, "TORCH=torch==9")
    (tmp_path / "training").touch()
    assert "--cov" in dry_run("test", *python)
    assert ".venv/python3." in dry_run("--always-make", "test", python[0])


def test_a_python_that_is_not_here_is_named() -> None:
    """`make` says which it looked for, and makes no environment."""
    command = ["make", "--no-print-directory", "--dry-run", "test", "PYTHON=python3.99"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "python3.99 is not here" in ran.stderr
    assert ran.stdout == ""


def test_every_supported_python_is_tested() -> None:
    """The hosted workflow runs on each Python that the project declares, and may fail on the one it only tries."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name]
    job = yaml.safe_load(Path(".github/workflows/check.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == [*declared, "3.14"]
    assert "'3.14'" in job["continue-on-error"]
    assert project["requires-python"] == f">={declared[0]}"


def test_the_hosted_workflow_runs_what_was_reviewed() -> None:
    """Every action is named by its commit, the token may only read, and no credentials are left for what is tested."""
    workflow = yaml.safe_load(Path(".github/workflows/check.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    used = [step for step in workflow["jobs"]["check"]["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in used)
    (checkout,) = (step for step in used if step["uses"].startswith("actions/checkout@"))
    assert checkout["with"] == {"persist-credentials": False}


def test_the_image_is_plain_locked_and_unprivileged() -> None:
    """The Dockerfile needs no BuildKit, installs by hash, ends as a numbered user and disables telemetry."""
    text = Path("Dockerfile").read_text(encoding="utf-8")
    instructions = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert set(instructions) <= set(
        "FROM ARG COPY RUN LABEL ENV WORKDIR USER EXPOSE HEALTHCHECK ENTRYPOINT".split()  # noqa: SIM905 - reads better
    )
    assert "--mount" not in text
    assert "<<" not in text
    assert "--require-hashes" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert "ORT_DISABLE_TELEMETRY=1" in text
    final = text.rpartition("FROM ")[2]
    assert "pip install" not in final
    assert "torch" not in text
    assert f'image.version="{__version__}"' in text


def test_the_image_keeps_measurements_and_has_no_installer() -> None:
    """The folder of the cache belongs to the user it runs as, and pip does not come along with the dependencies."""
    text = Path("Dockerfile").read_text(encoding="utf-8")
    folder, user = re.search(r"LENGTHWISE_CACHE_DIR=(\S+)", text), re.search(r"^USER (\S+)$", text, re.MULTILINE)
    assert folder is not None
    assert user is not None
    assert f"COPY --from=build --chown={user[1]} {folder[1]} {folder[1]}\n" in text
    build, _, final = text.rpartition("FROM ")
    assert build.index("--require-hashes") < build.index("pip uninstall --yes --quiet pip setuptools")
    assert "pip" not in final


def test_ci_runs_the_verbs_everyone_runs() -> None:
    """`.ci/run` is `make check` and `make test`, and the hosted workflow runs it; `check` builds docs and gallery."""
    commands = [shlex.split(line) for line in Path(".ci/run").read_text(encoding="utf-8").splitlines()]
    assert [command for command in commands if command[:1] == ["make"]] == [["make", "check"], ["make", "test"]]
    assert "bash .ci/run" in Path(".github/workflows/check.yml").read_text(encoding="utf-8")
    checks = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert checks
    assert "zensical build --clean --strict" in checks[1]
    assert "docs.notebooks --check" in checks[1]
