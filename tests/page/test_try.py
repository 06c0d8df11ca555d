"""Try in a real browser: what visitors bring, what comes of it, and what they take with them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import draw_sequences
from tests.listening import listen
from tests.made import take
from tests.page.browser import DESKTOP, PHONE, find_violations, is_too_wide, visit
from tests.server.test_server import same_bits

SAID = {"classes": "the class", "numbers": "a number", "next-tokens": "the next token"}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with encoders of features, of token ids and of texts."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("triples", "tokens", "texts"):
        take(kind, folder / f"{kind}.onnx", name=kind)
    take("triples", folder / "named.onnx", name="named", columns=["x", "y", "z"])
    with listen(create_app(Settings(models=folder, default_model="triples", log_requests=False))) as address:
        yield f"http://{address}/"


def rows_of(page: Any) -> Any:
    """Return the rows of sequences that are in sight."""
    return page.get_by_role("listbox", name="Sequences").get_by_role("option")


def await_count(page: Any, count: int) -> None:
    """Wait until so many sequences are there."""
    page.get_by_role("heading", name=f"{count} sequence", exact=False).filter(has_text=f"{count} sequence").wait_for()


def open_file(page: Any, name: str, content: bytes | str) -> None:
    """Open a file as a visitor does by the button."""
    content = content.encode() if isinstance(content, str) else content
    page.locator("#file").set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})


def drop(page: Any, name: str, content: str) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, content]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([content], name));
            for (const kind of ["dragover", "drop"])
                dispatchEvent(new DragEvent(kind, { dataTransfer, cancelable: true }));
        }""",
        [name, content],
    )


def save(page: Any, folder: Path) -> list[dict[str, Any]]:
    """Save the embeddings, and read them as others would."""
    with page.expect_download() as waited:
        page.get_by_role("button", name="Save as Parquet").click()
    path = folder / waited.value.suggested_filename
    waited.value.save_as(path)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def write_csv(sequences: list[Any]) -> str:
    """Write sequences a step a line, as training reads them."""
    features = sequences[0].shape[1]
    lines = [",".join(["id", "order", *(f"f{at}" for at in range(features))])]
    lines += [
        ",".join(map(str, [f"s{number}", at, *map(float, step)]))
        for number, steps in enumerate(sequences)
        for at, step in enumerate(steps)
    ]
    return "\n".join(lines)


def test_examples_are_there_and_the_keys_of_the_keyboard_choose_among_them(browser: Any, shipped: str) -> None:
    """The request follows the choice, and so does what is said of its neighbours."""
    with visit(browser, shipped) as page:
        rows = rows_of(page)
        rows.first.wait_for()
        assert rows.count() == 16
        code = page.get_by_role("tabpanel")
        before = code.inner_text()
        page.get_by_role("listbox").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        assert rows.last.get_attribute("aria-selected") == "true"
        assert code.inner_text() != before
        page.keyboard.press("Home")
        assert code.inner_text() == before
        assert "golden 1, nearest to" in page.locator("figure .caption").first.inner_text()
        page.get_by_role("tab", name="curl").focus()
        page.keyboard.press("ArrowRight")
        assert "httpx.post" in code.inner_text()
        page.locator("canvas.map").click(position={"x": 20, "y": 20})
        page.locator("canvas.matrix").click(position={"x": 5, "y": 335})
        assert rows.last.get_attribute("aria-selected") == "true"


def test_what_is_saved_has_the_bits_that_the_service_gives(browser: Any, shipped: str, tmp_path: Path) -> None:
    """Parquet, as pyarrow reads it: every sequence by name, its steps, its embedding and its place on the map."""
    with visit(browser, shipped) as page:
        rows_of(page).first.wait_for()
        rows = save(page, tmp_path)
    examples = httpx.get(f"{shipped}page/examples").json()["examples"]
    answer = httpx.post(f"{shipped}encode", json={"sequences": [one["sequence"] for one in examples]}).json()
    assert [row["steps"] for row in rows] == answer["lengths"]
    assert same_bits([row["embedding"] for row in rows], np.array(answer["embeddings"], np.float32))
    assert rows[0]["name"] == "golden 1"
    points = np.array([(row["x"], row["y"]) for row in rows])
    embeddings = np.array(answer["embeddings"])
    centred = embeddings - embeddings.mean(0)
    _, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.linalg.norm(points, axis=0) == pytest.approx(sizes[:2], rel=1e-3)


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_request_that_is_shown_can_be_run(language: str, browser: Any, shipped: str, tmp_path: Path) -> None:
    """As it stands it gives the embedding that the page has."""
    with visit(browser, shipped) as page:
        rows_of(page).first.wait_for()
        page.get_by_role("tab", name=language).click()
        code = page.get_by_role("tabpanel").inner_text()
        (expected, *_) = save(page, tmp_path)
    python = f"import json; show = print; print = lambda found: show(json.dumps(found))\n{code}"
    script = f"console.log = (found) => console.info(JSON.stringify(found));\n{code}"
    command = {
        "curl": ["sh", "-c", code],
        "Python": [sys.executable, "-c", python],
        "JavaScript": ["node", "--input-type=module", "-e", script],
    }[language]
    if shutil.which(command[0]) is None or (language == "curl" and shutil.which("curl") is None):
        pytest.skip(f"{command[0]} is not installed")
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    rows = found["embeddings"] if language == "curl" else found
    assert same_bits(rows, np.array([expected["embedding"]], np.float32))


def test_a_pasted_sequence_lands_among_the_others(browser: Any, shipped: str) -> None:
    """It is chosen, and its neighbours are told; so are variations of it."""
    with visit(browser, shipped, PHONE) as page:
        rows_of(page).first.wait_for()
        page.get_by_role("button", name="Paste").click()
        page.get_by_label("Sequences as JSON").fill(json.dumps([[0.1] * 12, [0.2] * 12]))
        page.get_by_role("button", name="Encode").click()
        await_count(page, 17)
        assert page.locator("figure .caption b").inner_text() == "pasted"
        for number, name in enumerate(("First half", "Reversed", "Shuffled", "Twice"), 18):
            page.get_by_role("button", name=name).click()
            await_count(page, number)
        page.get_by_role("button", name="Examples").click()
        await_count(page, 16)


def test_files_of_every_kind_give_the_same_sequences(browser: Any, shipped: str, tmp_path: Path) -> None:
    """CSV, JSON, lines of JSON and NPZ: each gives the bits that the service gives for the arrays."""
    sequences = draw_sequences([4, 2, 7], features=12)
    lists = [steps.tolist() for steps in sequences]
    npz = tmp_path / "three.npz"
    np.savez_compressed(npz, values=np.concatenate(sequences), lengths=[4, 2, 7])
    answer = httpx.post(f"{shipped}encode", json={"sequences": lists}).json()
    files: dict[str, str | bytes] = {
        "three.csv": write_csv(sequences),
        "three.json": json.dumps({"sequences": lists}),
        "three.jsonl": "".join(json.dumps({"sequence": steps}) + "\n" for steps in lists),
        "three.npz": npz.read_bytes(),
    }
    with visit(browser, shipped) as page:
        rows_of(page).first.wait_for()
        for name, content in files.items():
            open_file(page, name, content)
            rows_of(page).filter(has_text=name).first.wait_for()
            await_count(page, 3)
            rows = save(page, tmp_path)
            assert same_bits([row["embedding"] for row in rows], np.array(answer["embeddings"], np.float32)), name


def test_columns_are_found_by_the_names_that_the_model_has(browser: Any, several: str, tmp_path: Path) -> None:
    """In any order and beside others; without names or without a header they are taken by place, and that is said."""
    rows = [("a", 1, 2, 3), ("b", 4, 5, 6), ("c", 7, 8, 9)]
    answer = httpx.post(f"{several}encode", json={"model": "named", "sequences": [[row[1:]] for row in rows]}).json()
    expected = np.array(answer["embeddings"], np.float32)
    other = "".join(f"{name},{z},0.5,{y},{x}\n" for name, x, y, z in rows)
    bare = "\n\n".join(",".join(map(str, row[1:])) for row in rows)
    by_place = "Columns were taken by their place: "
    with visit(browser, several) as page:
        rows_of(page).first.wait_for()
        for model, content, told in (
            ("named", f'id,"z",more,y,x\n{other}', None),
            ("triples", f"x,y,z\n{bare}", f"{by_place}the model has no names for them."),
            ("named", bare, f"{by_place}the file has no header."),
        ):
            page.get_by_label("Model").select_option(model)
            rows_of(page).filter(has_text="golden 1").first.wait_for()
            open_file(page, "mine.csv", content)
            await_count(page, 3)
            said = page.locator("p.told").inner_text()
            assert (by_place in said) == (told is not None)
            assert told is None or said.endswith(told)
            found = [row["embedding"] for row in save(page, tmp_path)]
            assert same_bits(found, expected)
        for header, told in (
            ("x,y,w", 'mine.csv, line 1: there is no column "z", which the model reads.'),
            ("x,y,z,y", 'mine.csv, line 1: 2 columns have the name "y".'),
            ("a,b,c", 'there is no column "x", which the model reads.'),
        ):
            open_file(page, "mine.csv", f"{header}\n1,2,3,4\n")
            page.get_by_role("alert").filter(has_text=told).wait_for()


WRONG = [
    ("a.csv", "id,order,x,y,z\na,0,1,2,3\na,1,4,oops,6\n", 'a.csv, line 3, y is "oops": expected a number.'),
    ("a.csv", "x,y\n1,2\n", "a.csv, line 1: 2 columns hold numbers (x, y): the model reads 3 in each step."),
    ("a.csv", "id,x,y,z\na,1,2,3\na,1,2\n", "a.csv, line 3 has 3 cells, and line 1 has 4."),
    ("a.json", "[[[1,2,3],[4,5]]]", "a.json, sequences[0][1] has 2 numbers: the model reads 3 in each step."),
    (
        "a.json",
        "[[[1,2],[3,4],[5,6]]]",
        "the model reads 3 in each step, but the sequence has 3 steps: channels-first data must be transposed.",
    ),
    ("a.jsonl", "[[1,2,3]]\n[[1,2,3]\n", "a.jsonl, line 2 is not JSON"),
    ("a.json", "[[[1,2,null]]]", "a.json, sequences[0][0][2] is null: expected a number."),
    ("a.npz", "not a zip", "a.npz is not an npz: it has no directory."),
    ("a.parquet", "PAR1", "Here, CSV, JSON and NPZ are."),
    ("a.json", "", "a.json is empty."),
]


def test_a_wrong_file_names_its_row(browser: Any, several: str) -> None:
    """What was there before stays, and nothing was sent."""
    with visit(browser, several) as page:
        rows_of(page).first.wait_for()
        before = rows_of(page).count()
        page.on("request", lambda request: pytest.fail(f"{request.url} was asked"))
        for name, content, told in WRONG:
            open_file(page, name, content)
            page.get_by_role("alert").filter(has_text=told).wait_for()
            assert rows_of(page).count() == before


def test_token_ids_and_texts_are_brought_like_numbers(browser: Any, several: str, tmp_path: Path) -> None:
    """Each model has its own examples and takes its own kind; another kind is told."""
    with visit(browser, several) as page:
        rows_of(page).first.wait_for()
        for model, good, bad, told in (
            (
                "tokens",
                "[[1, 2, 3], [2, 1], [4, 4]]",
                "[[1, 99]]",
                "[0][1] is 99: the model knows the token ids 1 to 8.",
            ),
            (
                "texts",
                '["a good film", "a bad film", "rain"]',
                "[[0.5, 0.25]]",
                "the model knows the token ids 1 to 3.",
            ),
        ):
            page.get_by_label("Model").select_option(model)
            rows_of(page).first.wait_for()
            rows_of(page).filter(has_text="golden 1" if model == "tokens" else "guitar").first.wait_for()
            open_file(page, "mine.json", good)
            await_count(page, 3)
            field = "texts" if model == "texts" else "sequences"
            answer = httpx.post(f"{several}encode", json={"model": model, field: json.loads(good)}).json()
            rows = save(page, tmp_path)
            assert same_bits([row["embedding"] for row in rows], np.array(answer["embeddings"], np.float32))
            open_file(page, "mine.json", bad)
            page.get_by_role("alert").wait_for()
            assert told in page.get_by_role("alert").inner_text()


def test_what_a_model_predicts_of_each_sequence_is_shown(browser: Any, tmp_path: Path) -> None:
    """A class or the next token with its probabilities, or a number: those that the service gives for the same."""
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("classes", "numbers", "next-tokens", "triples"):
        take(kind, folder / f"{kind}.onnx", name=kind)
    app = create_app(Settings(models=folder, default_model="triples", log_requests=False))
    with listen(app) as address, visit(browser, f"http://{address}/") as page:
        rows_of(page).first.wait_for()
        assert page.get_by_role("heading", name="Prediction").count() == 0
        for kind in ("classes", "numbers", "next-tokens"):
            page.get_by_label("Model").select_option(kind)
            page.get_by_text("It predicts").filter(has_text=SAID[kind]).wait_for()
            rows_of(page).filter(has_text="guitar" if kind == "next-tokens" else "golden 1").first.wait_for()
            examples = httpx.get(f"http://{address}/page/examples?model={kind}").json()["examples"]
            page.get_by_role("button", name="Twice").click()  # what comes later is predicted, too
            await_count(page, len(examples) + 1)
            field = "texts" if kind == "next-tokens" else "sequences"
            sequences = [one[field[:-1]] for one in examples]
            sequences.append(f"{sequences[0]} {sequences[0]}" if field == "texts" else 2 * sequences[0])
            body = {"model": kind, field: sequences, "outputs": ["prediction"]}
            expected = httpx.post(f"http://{address}/encode", json=body).json()["prediction"]
            told = [f"{one:.3g}" if isinstance(one, float) else one["label"] for one in expected]
            rows = rows_of(page).all()
            assert [f", predicted {one}" in row.text_content() for row, one in zip(rows, told, strict=True)] == (
                [True] * len(told)
            )
            figure = page.locator("figure").filter(has=page.get_by_role("heading", name="Prediction"))
            if isinstance(expected[-1], float):
                assert figure.locator("p").inner_text() == told[-1]
            else:
                likeliest = sorted(expected[-1]["scores"].items(), key=lambda score: -score[1])
                assert figure.locator("th").all_inner_texts() == [label for label, _ in likeliest]
                shares = [f"{100 * share:.1f} %" for _, share in likeliest]
                assert figure.locator("td.number").all_inner_texts() == shares
            assert '"outputs": ["embedding","prediction"]' in page.get_by_role("tabpanel").inner_text()
            saved = [row["prediction"] for row in save(page, tmp_path)]
            assert saved == [np.float32(one) if isinstance(one, float) else one["label"] for one in expected]
        for size in (DESKTOP, PHONE):
            page.set_viewport_size(size)
            assert find_violations(page) == []
            assert not is_too_wide(page)


def test_500_dropped_sequences_cost_the_page_no_more_than_a_few_rows(browser: Any, shipped: str) -> None:
    """A worker reads, encodes and computes; only the rows in sight are there, and every one can be reached."""
    draw = np.random.default_rng(0)
    sequences = draw_sequences(draw.integers(5, 40, 500).tolist(), features=12)
    with visit(browser, shipped) as page:
        rows_of(page).first.wait_for()
        asked: list[str] = []

        def note(request: Any) -> None:
            if request.url.endswith("/encode"):
                asked.append(request.url)

        page.on("request", note)
        drop(page, "many.csv", write_csv(sequences))
        await_count(page, 500)
        assert rows_of(page).count() < 30
        assert len(asked) == 2  # 256 sequences in each
        assert (
            page.evaluate(
                "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/encode')).length"
            )
            == 0
        )
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        last = page.locator('[aria-posinset="500"]')
        last.wait_for()
        assert last.get_attribute("aria-selected") == "true"
