"""Take a picture of every view of the page: `python -m docs.screenshots`, which needs Chromium and Playwright.

The service is started with the shipped encoder, and the page is used as a visitor would. What that took is printed, as
JSON, on the last line: bytes of the page's own files on the wire, seconds until the first embeddings are shown, and
seconds of processor time in the page's longest task while 500 sequences are dropped on it.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.load.launch import start_service

FOLDER = Path("docs/pictures")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESKTOP, PHONE = {"width": 1180, "height": 820}, {"width": 390, "height": 780}
README = {"width": 1040, "height": 602}  # all that README shows of it
COLOURS = 256  # of a picture, which is small as a palette

DROP = """([name, content]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([content], name));
    for (const kind of ["dragover", "drop"]) dispatchEvent(new DragEvent(kind, { dataTransfer, cancelable: true }));
}"""


def show_try(page: Any) -> None:
    """Wait for the examples, and bring a sequence of one's own."""
    page.locator(".scroller .row").nth(5).click()
    page.get_by_role("button", name="First half").click()
    page.get_by_text("golden 2, first half").first.wait_for()


def show_proof(page: Any) -> None:
    """Prove until there is something to see."""
    page.get_by_role("button", name="Run the proof").click()
    page.get_by_text("24", exact=True).first.wait_for()
    page.get_by_role("button", name="Stop").click()


def show_batches(page: Any) -> None:
    """Put some load on, and wait until the chart has it."""
    page.get_by_text("runners at work").wait_for()
    for _ in range(3):
        page.get_by_role("button", name="Send some load").click()
        page.wait_for_timeout(1500)


def show_costs(page: Any) -> None:
    """Wait for the chart."""
    page.locator(".chart canvas").wait_for()


def show_models(page: Any) -> None:
    """Wait for the first card."""
    page.get_by_text("Verified.").first.wait_for()


VIEWS: dict[str, Callable[[Any], None]] = {
    "try": show_try,
    "proof": show_proof,
    "batches": show_batches,
    "costs": show_costs,
    "models": show_models,
}


SHOTS: tuple[tuple[str, dict[str, int], str, Iterable[str]], ...] = (
    ("light", DESKTOP, "", VIEWS),
    ("dark", DESKTOP, "-dark", ["try"]),
    ("dark", PHONE, "-phone", ["try", "proof"]),
    ("light", README, "-readme", ["try"]),
    ("dark", README, "-readme-dark", ["try"]),
)


def take(page: Any, name: str, *, is_whole: bool = True) -> None:
    """Take a picture of a page, of few colours."""
    image = import_module("PIL.Image")
    path = FOLDER / f"{name}.png"
    page.wait_for_timeout(300)
    page.screenshot(path=path, full_page=is_whole)
    image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def measure(browser: Any, url: str) -> dict[str, float]:
    """Use every view once, and drop 500 sequences.

    Returns:
        What that took.
    """
    page, requests = browser.new_page(viewport=DESKTOP), []
    page.on("requestfinished", lambda request: requests.append(request))  # noqa: PLW0108 - no method of C is taken
    page.goto(url)
    page.locator(".scroller .row").first.wait_for()
    usable = page.evaluate("performance.getEntriesByName('usable')[0].startTime")
    for view, show in VIEWS.items():
        page.goto(f"{url}#{view}")
        show(page)
    sizes = {request.url: request.sizes() for request in requests if request.url.endswith((".js", ".css", ".svg", "/"))}
    page.goto(f"{url}#try")
    page.locator(".scroller .row").first.wait_for()
    browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
    page.evaluate(DROP, ["many.csv", write_many()])
    page.get_by_role("heading", name="500 sequences").wait_for()
    page.wait_for_timeout(500)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    page.close()
    transferred = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes.values())
    return {
        "transferred_bytes": transferred,
        "usable_seconds": usable / 1000,
        "longest_task_seconds": find_longest(events),
    }


def find_longest(events: list[dict[str, Any]]) -> float:
    """Return the seconds of processor time of the longest task on the thread that a page answers its reader on."""
    names = {event["tid"] for event in events if event.get("args", {}).get("name") == "CrRendererMain"}
    tasks = [event for event in events if event.get("tid") in names and event["name"].endswith("RunTask")]
    return float(max(event.get("tdur", event.get("dur", 0)) for event in tasks)) / 1e6


def write_many() -> str:
    """Write a CSV of 500 sequences of 12 features."""
    draw = np.random.default_rng(0)
    lines = [",".join(["id", "order", *(f"f{at}" for at in range(12))])]
    for number, length in enumerate(draw.integers(5, 40, 500)):
        for at, step in enumerate(draw.standard_normal((length, 12)).round(3)):
            lines.append(",".join(map(str, [number, at, *step])))
    return "\n".join(lines)


def main() -> None:
    """Take the pictures, and print what the visit took."""
    chromium = shutil.which("chromium") or sys.exit("docs: chromium is not installed")
    FOLDER.mkdir(exist_ok=True)
    with start_service() as (_, url), import_module("playwright.sync_api").sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        for theme, size, suffix, shown in SHOTS:
            page = browser.new_page(viewport=size, color_scheme=theme)
            for view in shown:
                page.goto(f"{url}/#{view}")
                VIEWS[view](page)
                take(page, f"{view}{suffix}", is_whole=size is DESKTOP)
            page.close()
        page = browser.new_page(viewport=DESKTOP)
        page.goto(f"{url}/docs")
        page.locator("article").first.wait_for()
        take(page, "docs", is_whole=False)
        page.close()
        print(json.dumps(measure(browser, f"{url}/")))  # noqa: T201 - a command-line program
        browser.close()


if __name__ == "__main__":
    main()
