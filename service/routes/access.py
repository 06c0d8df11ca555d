"""Who may ask what: keys for all but health and the documentation, which tells nothing of this instance."""

import re
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service.errors import InvalidKey
from service.keys import KeyRing
from service.routes import encoding, problems

# Orchestrators have no keys. The document and its page say what anyone can read in the source.
OPEN_PATHS = frozenset(
    ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
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


def refuse(keys: KeyRing, request: Request) -> Response | None:
    """Return the answer to a request that lacks a key; of any other, note the key's hash in its state.

    Paths that do not exist need a key, too, so that nobody can try which do.
    """
    path = request.scope["path"]
    if path in OPEN_PATHS:
        return None
    try:
        request.state.key = keys.recognize(request.scope["headers"])
    except InvalidKey as error:
        return problems.answer_error(error, request.state.request_id, problems.dialect_of(path))
    return None


def document(paths: dict[str, Any], *, has_keys: bool) -> dict[str, Any]:
    """Say in an OpenAPI document's paths which need a key, and return what goes into its components."""
    for path, operations in paths.items():
        for operation in operations.values() if path not in OPEN_PATHS else ():
            refusals = problems.document(InvalidKey, dialect=problems.dialect_of(path))
            operation["responses"] |= {str(status): response for status, response in refusals.items()}
            if has_keys:
                operation["security"] = [{"key": []}]
    return {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if has_keys else {}
