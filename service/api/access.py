"""Whether a request may ask its route: its connection, its host, its key, and the page it comes from."""

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp

from service.api import encoding
from service.api.crowd import CROWDED
from service.api.keys import KeyRing
from service.api.routing import GONE, Route, service_of
from service.errors import InvalidHost, InvalidKey, TooManyConnections
from service.observing.counts import Exchange
from service.settings import Settings

READABLE_HEADERS = (
    *encoding.RESPONSE_HEADERS,
    "Inference-Header-Content-Length",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
    "WWW-Authenticate",
)


def allow_origins(app: ASGIApp, origins: str) -> ASGIApp:
    """Let pages of these origins, separated by commas, call an app and read its answers; a key is not a cookie."""
    return CORSMiddleware(
        app,
        allow_origins=re.split(r",\s*", origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=READABLE_HEADERS,
    )


def read_keys(settings: Settings) -> tuple[KeyRing | None, KeyRing | None]:
    """Return the keys of requests, the admin's among them, and the admin's alone; None in place of either without any.

    Raises:
        KeysUnusable: a key or the file of keys is not as it must be.
    """
    given = settings.api_keys.get_secret_value() if settings.api_keys else ""
    admin = settings.admin_key.get_secret_value() if settings.admin_key else ""
    admins = KeyRing(admin, setting="LENGTHWISE_ADMIN_KEY") if admin else None
    return KeyRing(given, settings.api_keys_file, also=admins) if settings.has_keys else None, admins


def let_in(request: Request, route: Route, exchange: Exchange) -> None:
    """See that a request may ask its route, and note the hash of the key it brings if it needs one.

    Raises:
        ClientDisconnect: the client hung up before the request had its turn.
        TooManyConnections: its connection is one too many, and what it asks is not a probe.
        InvalidHost: it names several hosts, or none.
        InvalidKey: it brings no key that opens the route.
    """
    scope, service = request.scope, service_of(request)
    if GONE in scope:
        raise ClientDisconnect
    if (limit := scope.get(CROWDED)) and not route.is_probe:
        raise TooManyConnections(limit)
    _require_host(request)
    if route.access == "open":
        return
    keys = service.admin_keys if route.access == "admin" else service.keys
    if keys is not None:
        exchange.key = keys.recognize(scope["headers"])
    elif route.access == "admin":
        raise InvalidKey  # there are no admins


def _require_host(request: Request) -> None:
    """See that a request names its host once, so that nobody before the service took it for another's.

    Raises:
        InvalidHost: it names several, or none, which HTTP/1.0 allows.
    """
    pairs = request.scope["headers"]
    if "host" in request.headers and len(request.headers) == len(pairs):
        return  # no header comes twice
    found = sum(name == b"host" for name, _ in pairs)
    if found > 1 or (found == 0 and request.scope.get("http_version") == "1.1"):
        raise InvalidHost(found)


def is_known(request: Request) -> bool:
    """Whether a request to an open route brings a key all the same, or no route needs one."""
    keys = service_of(request).keys
    try:
        return keys is None or bool(keys.recognize(request.scope["headers"]))
    except InvalidKey:
        return False
