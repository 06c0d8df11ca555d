"""The static files of the page and of the document's reader: how they are sent, and what they may load."""

import gzip
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.endpoints.pages import ROUTES
from service.page.files import HERE, TYPES, list_files, read_file
from tests.api.test_encode import PAIR, Serve
from tests.api.test_keys import FIRST, bearing

FILES = [route.path for route in ROUTES if route.path != "/openapi.json"]
CARRIED = 80_000  # bytes that all of the page may take on the wire


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_sent_with_its_type_and_its_tag(path: str, client: TestClient) -> None:
    """A browser guesses nothing, and pages of other origins cannot load it."""
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == TYPES[Path(path).suffix or ".html"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert re.fullmatch(r'"[0-9a-f]{20}-gzip"', response.headers["etag"])
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/docs", "/page/worker.js"])
def test_what_a_browser_runs_has_its_policy(path: str, client: TestClient) -> None:
    """A page and a worker bind all that they load: it comes from here, and no other origin is asked."""
    response = client.get(path)
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy.pop("img-src") == "'self' data:"
    nothing = {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert {name for name, allowed in policy.items() if allowed == "'none'"} == nothing
    assert {allowed for name, allowed in policy.items() if name not in nothing} == {"'self'"}


def test_a_file_that_the_client_has_is_not_sent_again(client: TestClient) -> None:
    """Its tag is enough, alone or among others; the tag of other bytes is not."""
    for encoding in ("gzip", "identity"):
        tag = client.get("/page/app.js", headers={"Accept-Encoding": encoding}).headers["etag"]
        for known, status in ((tag, 304), (f'"other", W/{tag}', 304), ('"other"', 200)):
            response = client.get("/page/app.js", headers={"Accept-Encoding": encoding, "If-None-Match": known})
            assert (response.status_code, response.headers["etag"]) == (status, tag)
            assert bool(response.content) == (status == 200)


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("deflate, GZIP", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("", False),
        ("identity", False),
        ("br", False),
    ],
)
def test_a_file_is_compressed_if_the_client_takes_that(accepted: str, is_compressed: bool, client: TestClient) -> None:  # noqa: FBT001 - a parameter of the test
    """Both forms have a tag of their own, so that a cache never gives one for the other."""
    with client.stream("GET", "/page/app.js", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["vary"] == "Accept-Encoding"
    assert (response.headers.get("content-encoding") == "gzip") == is_compressed
    assert response.headers["etag"].endswith('-gzip"') == is_compressed
    assert (gzip.decompress(raw) if is_compressed else raw) == (HERE / "page" / "app.js").read_bytes()


@pytest.mark.parametrize("folder", ["page", "docs"])
def test_no_file_names_another_origin_or_runs_what_stands_in_a_page(folder: str) -> None:
    """Pages hold no script, style or handler of their own, and ours load nothing from elsewhere."""
    for name in list_files(folder):
        if name.startswith("vendor/"):
            continue  # comments there name their projects
        text = (HERE / folder / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        if name.endswith(".html"):
            assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)
        assert not re.findall(r"\beval\(|new Function|innerHTML|document\.write", text), name


def test_each_module_that_the_page_starts_with_is_named_in_its_head() -> None:
    """So a browser fetches all of them at once, and none waits until another was read."""
    root = HERE / "page"

    def find(name: str) -> set[str]:
        text = (root / name).read_text(encoding="utf-8")
        found = {str((root / name).parent.joinpath(other).resolve().relative_to(root)) for other in
                 re.findall(r'(?:from|import) ?"(\./[^"]+|\.\./[^"]+)"', text)}  # fmt: skip
        return found.union(*(find(other) for other in found))

    head = (root / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'rel="modulepreload" href="page/([^"]+)"', head)) == find("app.js")


def test_all_of_the_page_is_under_80_kb() -> None:
    """Whatever a visitor does, no more is carried: every file counted, compressed, once."""
    files = [("page", name) for name in list_files("page") if not name.endswith(".txt")]
    files += [("docs", name) for name in ("colours.css", "icon.svg")]
    sizes = {name: len(read_file(folder, name).compressed) for folder, name in files}
    assert {"vendor/uplot.js", "worker.js", "reading.js"} <= set(sizes)
    assert sum(sizes.values()) < CARRIED


def test_the_page_is_off_by_a_setting(serve: Serve) -> None:
    """Nothing of it exists then, and the document and its reader are there all the same."""
    paths = ["/", "/page/app.js", "/page/access", "/page/examples", "/page/costs", "/page/live"]
    client = serve(page=False)
    for path in paths:
        assert client.get(path).status_code == 404
    assert client.get("/docs").status_code == client.get("/docs/reader.js").status_code == 200
    assert client.post("/encode", json={"sequences": PAIR}).status_code == 200
    client = serve(page=False, api_keys=FIRST)
    for path in paths:
        assert client.get(path).status_code == 401


def test_the_pages_files_are_open_and_what_it_shows_needs_a_key(serve: Serve) -> None:
    """A browser cannot send a key for a page, so the page asks for one; no model is named before."""
    client = serve(api_keys=FIRST)
    for path in FILES:
        assert client.get(path).status_code == 200
    for path in ("/page/examples", "/page/costs", "/page/live", "/info", "/page/nothing.js"):
        assert client.get(path).status_code == 401
    assert client.get("/page/examples", headers=bearing(FIRST)).status_code == 200
    assert client.get("/page/nothing.js", headers=bearing(FIRST)).status_code == 404


def test_no_path_reaches_other_files(client: TestClient) -> None:
    """Only files that were listed at the start have routes, however a path is written."""
    for path in ("/page/../files.py", "/page/%2e%2e/files.py", "/page/vendor/../../files.py", "/page//app.js"):
        assert client.get(path).status_code == 404
    assert client.get("/docs/../settings.py").status_code == 404
