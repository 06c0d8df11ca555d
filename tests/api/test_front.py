"""The front: which route a request is given to, and who may ask it."""

from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.front import Front
from service.app import PARTS, create_app
from service.page.files import list_files
from service.settings import Settings
from tests.api.test_encode import PAIR, Serve
from tests.api.test_keys import ADMIN_PATHS, FIRST, OPEN_PATHS, SECOND, bearing
from tests.listening import listen

PROBES = {"/ping", "/metrics", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
ROUTES = [route for part in PARTS for route in part.ROUTES]
STATIC = {f"/{folder}/{name}" for folder in ("docs", "page") for name in list_files(folder) if name != "index.html"}


def test_each_route_says_who_may_ask_it() -> None:
    """Health, the document and static files are open, admins alone change or see the insides, all else needs a key."""
    assert {route.path for route in ROUTES if route.access == "open"} == OPEN_PATHS | STATIC
    assert {route.path for route in ROUTES if route.access == "admin"} == ADMIN_PATHS
    assert {route.path for route in ROUTES if route.is_probe} == PROBES
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("keys", [{}, {"api_keys": FIRST}, {"api_keys": FIRST, "admin_key": SECOND}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/debug/batches%0A"),
        ("POST", "/v2/repository/models/made/unload%0A"),
        ("GET", "/info%0A"),
        ("POST", "/encode%0A"),
    ],
)
def test_a_line_break_after_a_path_opens_nothing(method: str, path: str, keys: dict[str, str], serve: Serve) -> None:
    """A pattern that ends in `$` matches before a line break, too: no route may be reached past its check."""
    client = serve(**keys)
    assert client.request(method, path, headers=bearing(FIRST)).status_code == 404
    if keys:
        assert client.request(method, path).status_code == 401
    assert client.post("/encode", json={"sequences": PAIR}, headers=bearing(FIRST)).status_code == 200


def test_a_wrong_method_needs_the_key_of_its_path(serve: Serve) -> None:
    """On an open path it is 405 for anyone, elsewhere 401 without a key; nothing is answered to OPTIONS."""
    client = serve(api_keys=FIRST)
    for method in ("OPTIONS", "DELETE"):
        ask = partial(client.request, method)
        assert [ask(path).status_code for path in sorted(OPEN_PATHS)] == [405] * len(OPEN_PATHS)
        assert ask("/encode").status_code == 401
        known = ask("/encode", headers=bearing(FIRST))
        assert (known.status_code, known.headers["allow"]) == (405, "POST")


def test_head_is_answered_as_get_is(artifact: Path) -> None:
    """By the same head without a body, and behind the same key; a path that takes POST alone refuses it."""
    settings = Settings(model=artifact, api_keys=FIRST, log_requests=False)
    paths = ["/", "/page/app.js", "/docs", "/openapi.json", "/health/ready", "/info", "/v2/models/made"]
    with listen(create_app(settings)) as address:
        connection = HTTPConnection(address, timeout=60)  # one, so that a body would be taken for the next answer

        def ask(method: str, path: str, key: str = FIRST) -> tuple[int, dict[str, str], bytes]:
            connection.request(method, path, headers=bearing(key))
            response = connection.getresponse()
            headers = dict(response.getheaders())
            for name in ("date", "x-request-id"):
                headers.pop(name)
            return response.status, headers, response.read()

        for path in paths:
            status, headers, body = ask("GET", path)
            assert (status, len(body)) == (200, int(headers["content-length"]))
            assert ask("HEAD", path) == (200, headers, b"")
        assert ask("HEAD", "/page/live")[1]["content-type"].startswith("text/event-stream")
        assert ask("HEAD", "/info", SECOND)[0] == 401
        assert ask("HEAD", "/encode")[0] == 405
        connection.close()


def test_what_is_for_admins_is_not_there_without_any(serve: Serve) -> None:
    """Whatever the method, and it is counted like any path that does not exist."""
    client = serve()
    for path in ADMIN_PATHS:
        for method in ("GET", "POST", "PUT"):
            assert client.request(method, path.format(model="made")).status_code == 404
    counted = client.get("/metrics").text
    assert 'route="other"' in counted
    assert "/debug/batches" not in counted


def test_nobody_is_an_admin_without_an_admins_key(serve: Serve) -> None:
    """A route for admins that is served all the same lets nobody in."""
    client = serve()
    built = client.app
    assert isinstance(built, Front)
    with TestClient(Front(built.state.service, ROUTES, built.fallback)) as open_to_all:
        assert open_to_all.get("/info").status_code == 200
        assert open_to_all.get("/debug/batches").status_code == 401
