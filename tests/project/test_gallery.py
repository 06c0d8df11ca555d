"""The gallery's pages are what their run wrote, and running one finds what is not true any more."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from docs import figures, notebooks
from docs.figures import INK
from docs.notebooks import FOLDER, PAGES, PART, PICTURE, RAN, NotAsWritten, hash_page, run_page, write_notebook

PICTURES = sorted((FOLDER / "pictures").glob("*.svg"))
LIMIT_BYTES = 60_000  # of a picture, so that a page is light


def read(name: str) -> str:
    """Return the text of a page."""
    return PAGES[name].read_text(encoding="utf-8")


def test_there_are_five() -> None:
    """Speech, gestures, appliances, token ids and text."""
    assert {*PAGES} == {"speech", "gestures", "appliances", "melodies", "sentences"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_run_wrote(name: str) -> None:
    """The hash on its last line is that of its code, outputs and pictures: run `make gallery` if it is not."""
    ran = RAN.search(read(name))
    assert ran, "run make gallery"
    assert ran[1] == hash_page(read(name), FOLDER), f"run make gallery OF={name}"


@pytest.mark.parametrize("name", PAGES)
def test_a_change_by_hand_is_found(name: str, tmp_path: Path) -> None:
    """Another line of code, another figure in an output and another picture each give another hash."""
    text, known = read(name), hash_page(read(name), FOLDER)
    code, output = re.search(r"```python\n(.)", text), re.search(r"```text\n(.)", text)
    assert code
    assert output
    for at in (code.start(1), output.start(1)):
        assert hash_page(f"{text[:at]}#{text[at:]}", FOLDER) != known
    (tmp_path / "pictures").mkdir()
    for picture in PICTURES:
        (tmp_path / "pictures" / picture.name).write_bytes(picture.read_bytes() + b" ")
    assert hash_page(text, tmp_path) != known


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_is_its_page(name: str) -> None:
    """The notebook beside a page has its text and its code, and no outputs."""
    written = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert written == write_notebook(read(name)), "run make docs"
    cells = json.loads(written)["cells"]
    sources = [cell["source"].removeprefix("%%bash\n") for cell in cells if cell["cell_type"] == "code"]
    assert sources.pop(0) == notebooks.FOLDER_OF_ITS_OWN
    assert sources == [notebooks.close(part).strip("\n") for part in PART.finditer(read(name))]
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_tells_a_whole_story(name: str) -> None:
    """It draws, trains, exports with proof, serves, searches, says what it does not show, and how to run it."""
    text = read(name)
    assert len(PICTURE.findall(text)) >= 2
    for part in ("lengthwise train", "lengthwise export", '"lengthwise", "serve"', "## What this does not show"):
        assert part in text
    assert "embedding is the same alone and in any batch" in text
    assert f"jupyter lab docs/gallery/{name}.ipynb" in text
    assert "<!-- holds: " in text


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_has_both_themes(picture: Path) -> None:
    """It loads nothing, keeps no time, has the reader's colours, and is shown by a page."""
    drawing = picture.read_text(encoding="utf-8")
    assert len(drawing.encode()) < LIMIT_BYTES
    assert "prefers-color-scheme:dark" in drawing
    assert "currentColor" in drawing
    assert not re.search(r"<script|<dc:date|href=\"(?!#|data:)|@import", drawing)
    assert any(f"(pictures/{picture.name})" in read(name) for name in PAGES)


def test_what_pages_tell_to_install_is_what_make_installs() -> None:
    """A package that is read for its data only has one version, in the pages and in the Makefile."""
    makefile = Path("Makefile").read_text(encoding="utf-8")
    told = {found for name in PAGES for found in re.findall(r"--no-deps (\S+)", read(name))}
    assert len(told) == 3
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    for package in told:
        assert package in makefile
        assert package in index


PAGE = """# A page

```python
import subprocess

started = subprocess.Popen(["sleep", "60"])
value = 20 + 1
print(started.pid)
value * 2
```

<!-- holds: value == 21 -->

```sh
echo "three" | tr a-z A-Z
```

What was there before is replaced:

```python
value += 1
value;
```

```text
stale
```

<!-- ran: 0123456789abcdef -->
"""
DRAWS = "```python\nimport matplotlib.pyplot as plt\n\nplt.figure(figsize=(2, 1)).text(0.1, 0.5, 'words')\n```\n"


def test_a_run_writes_what_code_prints(tmp_path: Path) -> None:
    """Printed lines and the last expression stand under their code, as in a notebook, and what it started is ended."""
    pytest.importorskip("matplotlib")
    written = run_page(PAGE, tmp_path)
    printed = re.search(r"value \* 2\n```\n\n```text\n(\d+)\n42\n```\n\n<!-- holds", written)
    assert printed
    with pytest.raises(ProcessLookupError):
        os.kill(int(printed[1]), 0)
    assert "```\n\n```text\nTHREE\n```\n" in written
    assert "stale" not in written
    assert not RAN.search(written)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (PAGE.replace("value == 21", "value == 22"), NotAsWritten),
        (PAGE.replace("value += 1", "value += None"), TypeError),
        (PAGE.replace("echo", "cat no-such-file;"), subprocess.CalledProcessError),
        (DRAWS, NotAsWritten),
        ("```python\nvalue = 1\n```\n\n![nothing](pictures/nothing.svg)\n", NotAsWritten),
    ],
    ids=["a false claim", "an error", "a failing command", "a picture without a place", "a place without a picture"],
)
def test_a_run_fails(text: str, error: type[Exception], tmp_path: Path) -> None:
    """A page that does not run, or whose text is not borne out, ends the run."""
    pytest.importorskip("matplotlib")
    with pytest.raises(error):
        run_page(text, tmp_path)


def test_a_picture_is_drawn_in_the_readers_colours(tmp_path: Path) -> None:
    """What is drawn twice is the same file, whose words and lines have the colour of the page's theme."""
    pytest.importorskip("matplotlib")
    figures.use_style()
    shown = f"{DRAWS}\n![a word](pictures/word.svg)\n"
    drawn = []
    for _ in range(2):
        assert run_page(shown, tmp_path) == shown
        drawn.append((tmp_path / "word.svg").read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]
    assert INK not in drawn[0].replace(f"svg{{color:{INK}", "")
    assert "fill: currentColor" in drawn[0]
    assert ">words<" in drawn[0]
