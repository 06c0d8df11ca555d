"""Every view in a real browser: on a desktop and a phone, light and dark, for everyone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from tests.api.test_keys import FIRST, SECOND
from tests.listening import listen
from tests.made import take
from tests.page.browser import DESKTOP, PHONE, find_violations, is_too_wide, visit

IDS = ("desktop-light", "desktop-dark", "phone-light", "phone-dark")
VIEWS = ("try", "proof", "batches", "costs", "models")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with encoders of every kind, one of them of int8 weights."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("triples", "tokens", "texts", "int8"):
        take(kind, folder / f"{kind}.onnx", name=kind)
    with listen(create_app(Settings(models=folder, default_model="triples", log_requests=False))) as address:
        yield f"http://{address}/"


def run_view(page: Any, view: str) -> None:
    """Do what the view is for, until it shows what came of it."""
    if view == "try":
        page.locator(".scroller .row").first.wait_for()
    elif view == "proof":
        page.get_by_role("button", name="Run the proof").click()
        page.get_by_text("had the same bits as alone").wait_for()
        page.get_by_role("button", name="Stop").click()
    elif view == "batches":
        page.get_by_role("button", name="Send some load").click()
        page.locator("table.batches tbody tr").nth(3).wait_for()
        page.locator(".chart canvas").wait_for()
    elif view == "costs":
        page.locator(".surface tbody tr").first.wait_for()
        page.locator(".chart canvas").wait_for()
    else:
        page.get_by_text("Verified.").first.wait_for()


@pytest.mark.parametrize(
    ("size", "theme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")], ids=IDS
)
def test_everyone_can_use_every_view(browser: Any, shipped: str, size: dict[str, int], theme: Any) -> None:
    """Axe finds nothing, nobody scrolls sideways, the console stays empty, and no other origin is asked."""
    with visit(browser, shipped, size, theme) as page:
        for view in VIEWS:
            page.get_by_role("link", name=view.title(), exact=True).click()
            page.get_by_role("heading", name=view.title(), level=1).wait_for()
            run_view(page, view)
            assert page.title() == f"{view.title()} · Lengthwise"
            assert find_violations(page) == [], view
            assert not is_too_wide(page), view


def measure(sizes: dict[str, int]) -> int:
    """Return the bytes of an answer."""
    return sizes["responseBodySize"] + sizes["responseHeadersSize"]


def test_all_that_a_visit_of_every_view_fetches_is_under_80_kb(browser: Any, shipped: str) -> None:
    """Counted on the wire as the browser counts it, heads of answers too: all of the page's files."""
    requests: list[Any] = []

    def keep(request: Any) -> None:
        requests.append(request)

    with visit(browser, shipped, on_finished=keep) as page:
        for view in VIEWS:
            page.get_by_role("link", name=view.title(), exact=True).click()
            run_view(page, view)
        sizes = {request.url: measure(request.sizes()) for request in requests}
        fetched = {url: size for url, size in sizes.items() if url == shipped or url.endswith((".js", ".css", ".svg"))}
    assert any(url.endswith("uplot.js") for url in fetched)
    print(f"transferred: {sum(fetched.values())} bytes in {len(fetched)} files")  # noqa: T201 - a figure to report
    assert sum(fetched.values()) < 80_000


def test_the_proof_of_float32_is_a_zero_and_that_of_int8_is_what_it_costs(browser: Any, several: str) -> None:
    """Both are of real requests; what cannot be padded is not."""
    with visit(browser, f"{several}#proof") as page:
        for model, is_exact in (("triples", True), ("tokens", True), ("texts", True), ("int8", False)):
            page.get_by_label("Model").select_option(model)
            page.get_by_text("Nothing was compared yet").wait_for()
            assert page.get_by_label("Pad with junk").is_disabled() == (model == "texts")
            page.get_by_role("button", name="Run the proof").click()
            page.locator(".trials li").nth(7).wait_for()
            page.get_by_role("button", name="Stop").click()
            difference = page.get_by_label("Largest difference").inner_text()
            assert (difference == "0") == is_exact, (model, difference)
            assert page.get_by_text("What int8 costs").count() == (not is_exact)


def test_costs_and_models_show_what_the_service_tells(browser: Any, several: str) -> None:
    """Each number that was measured has its cell, and each claim of a proof its row."""
    with visit(browser, f"{several}#costs") as page:
        page.locator(".surface tbody tr").first.wait_for()
        told = page.evaluate("fetch('page/costs?model=triples').then((answer) => answer.json())")
        cells = [text for text in page.locator(".surface tbody td").all_inner_texts() if text]
        assert len(cells) == len(told["measured"])
        page.get_by_role("link", name="Models").click()
        page.get_by_text("Verified.").first.wait_for()
        info = page.evaluate("fetch('info').then((answer) => answer.json())")
        assert page.locator("article.model h2").all_inner_texts() == [
            f"{model['name']} version {model['version']}" for model in info["models"]
        ]
        for model, article in zip(info["models"], page.locator("article.model").all(), strict=True):
            claims = article.locator("table tbody th").all_inner_texts()
            assert claims == [check["claim"] for check in model["manifest"]["parity"]]
            assert model["sha256"] in article.inner_text()


def test_batches_are_told_as_they_end_and_stand_still_if_asked(browser: Any, several: str) -> None:
    """Each has its shape, its times and why it was cut; nothing moves while the visitor holds it."""
    with visit(browser, f"{several}#batches") as page:
        page.get_by_text("No batch has ended").or_(page.locator("table.batches tbody tr").first).wait_for()
        page.get_by_role("button", name="Send some load").click()
        page.locator("table.batches tbody tr").nth(3).wait_for()
        page.get_by_role("button", name="Hold still").click()
        shown = page.locator("table.batches tbody").inner_text()
        assert "triples" in shown
        assert "all that waited was in it" in shown
        page.get_by_role("button", name="Send some load").click()
        page.wait_for_timeout(1300)  # an event later
        assert page.locator("table.batches tbody").inner_text() == shown
        assert page.get_by_role("button", name="Go on").get_attribute("aria-pressed") == "true"


def test_padding_is_compared_with_that_of_the_order_of_arrival(browser: Any, shipped: str) -> None:
    """The same rows as they came to each queue, in batches of the same sizes; a loss is told as one."""
    later = {"queue": "0 a@1", "lengths": [1, 2, 3], "places": [3, 0, 5], "padded_steps": 9}
    other = {"queue": "1 a@1", "lengths": [4, 4], "places": [0, 1], "padded_steps": 8}
    sooner = {"queue": "0 a@1", "lengths": [7, 8, 9], "places": [1, 2, 4], "padded_steps": 27}
    # As they came: 2, 7, 8 and 1, 9, 3 in the first queue, 24 + 27 steps, of which 30 are valid; 8 of 8 in the other.
    with visit(browser, shipped) as page:

        def save(*newest_first: dict[str, Any]) -> Any:
            return page.evaluate(
                "(batches) => import('/page/batches.js').then(({ saved }) => saved(batches))", newest_first
            )

        assert save(later, other, sooner) == "71 %"  # 6 padded in place of 21
        assert save(other) == "\u2013"  # nothing to save
        mixed = [{**later, "lengths": [1, 9], "places": [0, 2], "padded_steps": 18}]
        mixed += [{**sooner, "lengths": [1, 8], "places": [1, 3], "padded_steps": 16}]
        assert save(*mixed) == "-1400 %"  # 1, 1 and 9, 8 would have padded one step, and 15 were


def test_a_key_is_asked_for_and_a_wrong_one_is_told(browser: Any, artifact: Path) -> None:
    """The right one opens the page until it is forgotten, and the admin's shows the batches."""
    settings = Settings(model=artifact, api_keys=FIRST, admin_key=SECOND, log_requests=False)
    with listen(create_app(settings)) as address, visit(browser, f"http://{address}/", refusals=1) as page:
        page.get_by_role("heading", name="This service asks for a key").wait_for()
        assert find_violations(page) == []
        assert "made" not in page.content()

        def enter(key: str) -> None:
            page.get_by_label("Key").fill(key)
            page.get_by_role("button", name="Enter").click()

        enter("not-the-right-key")
        page.get_by_text("That key is not known").wait_for()
        enter(FIRST)
        page.locator(".scroller .row").first.wait_for()
        page.get_by_role("link", name="Batches").click()
        page.get_by_text("are for the admin").wait_for()
        page.reload()
        page.get_by_text("are for the admin").wait_for()  # the key is kept in the tab
        page.get_by_role("button", name="Forget the key").click()
        enter(SECOND)
        page.get_by_role("button", name="Send some load").click()
        page.locator("table.batches tbody tr").first.wait_for()
        assert page.evaluate("JSON.stringify(localStorage)") == "{}"
        assert page.context.cookies() == []


@pytest.mark.parametrize(("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_the_document_is_read_and_tried_without_any_other_origin(
    browser: Any, shipped: str, size: dict[str, int], theme: Any
) -> None:
    """Every operation is there; one is sent as its example stands; axe finds nothing."""
    with visit(browser, f"{shipped}docs", size, theme) as page:
        page.locator("article").first.wait_for()
        document = page.evaluate("fetch('openapi.json').then((answer) => answer.json())")
        operations = [operation for methods in document["paths"].values() for operation in methods.values()]
        assert sorted(page.locator("article h3").evaluate_all("all => all.map((one) => one.id)")) == sorted(
            operation["operationId"] for operation in operations
        )
        encode = page.locator("article").filter(has=page.locator("#encode"))
        encode.get_by_text("Try it").click()
        encode.get_by_role("button", name="Send POST").click()
        encode.get_by_text("200", exact=True).last.wait_for()
        answer = json.loads(encode.get_by_label("Answer").inner_text())
        assert (answer["dim"], answer["lengths"]) == (256, [3, 2])
        for summary in encode.locator("summary").all():
            if summary.inner_text() != "Try it":
                summary.click()
        assert find_violations(page) == []
        assert not is_too_wide(page)
