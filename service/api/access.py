"""Who may ask what: keys for all but health and the documentation, which tells nothing of this instance."""

import re
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp

from service.api import encoding, problems
from service.api.crowd import CROWDED
from service.api.keys import KeyRing
from service.api.routing import Service, exchange_of, service_of
from service.errors import InvalidKey, TooManyConnections
from service.observing.counts import PROBES
from service.settings import Settings

# Orchestrators have no keys. Without a key, the document and its page say what anyone can read in the source.
OPEN_PATHS = frozenset(
    ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
)
ADMIN_PATHS = frozenset(
    ("/debug/batches", "/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload")
)

READABLE_HEADERS = (
    *encoding.RESPONSE_HEADERS,
    "Inference-Header-Content-Length",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
    "WWW-Authenticate",
)


def allow_origins(app: ASGIApp, origins: str) -> ASGIApp:
    """Let pages of these origins, separated by commas, call an app and read its answers; keys are no cookies."""
    return CORSMiddleware(
        app,
        allow_origins=re.split(r",\s*", origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=READABLE_HEADERS,
    )


def read_keys(settings: Settings) -> tuple[KeyRing | None, KeyRing | None]:
    """Return the keys of requests, the admin's among them, and the admin's alone, each if there are any.

    Raises:
        KeysUnusable: they are not as they must be.
    """
    given = settings.api_keys.get_secret_value() if settings.api_keys else ""
    admin = settings.admin_key.get_secret_value() if settings.admin_key else ""
    admins = KeyRing(admin, setting="LENGTHWISE_ADMIN_KEY") if admin else None
    return KeyRing(given, settings.api_keys_file, also=admins) if settings.has_keys else None, admins


def require_room(request: Request) -> None:
    """See that a request came on a connection within the limit, or asks for health or metrics.

    Raises:
        TooManyConnections: it did not, and asks for something else.
    """
    if (limit := request.scope.get(CROWDED)) and exchange_of(request).route not in PROBES:
        raise TooManyConnections(limit)


def require_key(request: Request) -> None:
    """See that a request brings the key its route asks for, and note the key's hash.

    Paths that do not exist need a key, too, so that nobody can try which do.

    Raises:
        InvalidKey: it brings none, or none that is known.
        HTTPException: 404, for what is there for admins only, and there are none.
    """
    service, exchange, scope = service_of(request), exchange_of(request), request.scope
    is_for_admins = exchange.route in ADMIN_PATHS
    keys = (service.admin_keys if is_for_admins else None) or service.keys
    if keys is not None and scope["path"] not in OPEN_PATHS:
        exchange.key = keys.recognize(scope["headers"])
    if is_for_admins and service.admin_keys is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)


def is_known(request: Request) -> bool:
    """Whether a request to what is open to all brings a key all the same, or none is needed for anything."""
    keys = service_of(request).keys
    try:
        return keys is None or bool(keys.recognize(request.scope["headers"]))
    except InvalidKey:
        return False


def document(paths: dict[str, Any], service: Service) -> dict[str, Any]:
    """Say in an OpenAPI document's paths which need a key, and return what goes into its components.

    What is for admins is left out where there are none.
    """
    schemes = {"key": service.keys, "admin_key": service.admin_keys}
    if service.admin_keys is None:
        for path in ADMIN_PATHS:
            del paths[path]
    for path, operations in paths.items():
        scheme = "admin_key" if path in ADMIN_PATHS else "key"
        for operation in operations.values() if path not in OPEN_PATHS else ():
            refusals = problems.document(InvalidKey, dialect=problems.dialect_of(path))
            operation["responses"] |= {str(status): response for status, response in refusals.items()}
            if schemes[scheme]:  # what a caller's key opens, the admin's opens too
                accepted = [scheme, *(["admin_key"] if scheme == "key" and service.admin_keys else [])]
                operation["security"] = [{one: []} for one in accepted]
    there = {name: {"type": "http", "scheme": "bearer"} for name, ring in schemes.items() if ring}
    return {"securitySchemes": there} if there else {}
