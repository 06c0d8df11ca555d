"""A real browser that visits the page, and holds it to what every visit must be."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from tests.page import axe

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}

Theme = Literal["light", "dark"]


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium; without it, or without Playwright, leave the tests out."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Any,
    url: str,
    size: dict[str, int] | None = None,
    theme: Theme = "light",
    *,
    refusals: int = 0,
    on_finished: Callable[[Any], None] = lambda _request: None,
) -> Iterator[Any]:
    """Open a page, and see at the end that it asked nobody else and that nothing went wrong.

    Args:
        browser: the browser.
        url: the address, with its view.
        size: of the window.
        theme: what the visitor prefers.
        refusals: how many requests the service should have refused; the browser tells each on its console.
        on_finished: is called with each request that was answered.

    Yields:
        Playwright's page.
    """
    context = browser.new_context(viewport=size or DESKTOP, color_scheme=theme)
    page = context.new_page()
    told: list[str] = []
    foreign: list[str] = []
    origin = "/".join(url.split("/")[:3])
    page.set_default_timeout(60_000)

    def note(message: Any) -> None:
        if message.type in ("error", "warning"):
            told.append(message.text)

    def look(request: Any) -> None:
        if not request.url.startswith((origin, "blob:")):
            foreign.append(request.url)

    page.on("console", note)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", look)
    page.on("requestfinished", on_finished)
    try:
        page.goto(url)
        yield page
        assert foreign == []
        unforeseen = [text for text in told if not (refusals and "status of 401" in text)]
        assert (unforeseen, len(told)) == ([], refusals)
    finally:
        context.close()


def find_violations(page: Any) -> list[str]:
    """Return what axe finds against a page, each with its rule and the element."""
    page.evaluate(axe.read())  # by the debugger, which the page's policy does not bind
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary'][:300]}" for rule in found for node in rule["nodes"]
    ]


def is_too_wide(page: Any) -> bool:
    """Whether a visitor must scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
