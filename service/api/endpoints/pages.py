"""The OpenAPI document, and `/docs`: the same as a page, which may load and reach no more than it needs."""

import base64
import hashlib
import re
from functools import cache

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response

from service.api.routing import Route, service_of
from service.errors import InvalidKey

# One release, whose files never change; it weighs 1.5 MB, too much to carry for a page.
ASSETS = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.17.14/"


async def describe(request: Request) -> Response:
    """Answer with the document; only a client that may ask the models anything is told of them."""
    document = service_of(request).document
    written = document.write() if _brings_key(request) else document.write_plain()
    return Response(written, headers={"Vary": "Authorization"}, media_type="application/json")


async def show(_request: Request) -> Response:
    """Show Swagger UI, which reads the document from beside it."""
    page, headers = _write_page()
    return Response(page, headers=headers, media_type="text/html")


def _brings_key(request: Request) -> bool:
    """Whether a request brings a key, though this route is open, or no route needs one."""
    keys = service_of(request).keys
    try:
        return keys is None or bool(keys.recognize(request.scope["headers"]))
    except InvalidKey:
        return False


@cache
def _write_page() -> tuple[bytes, dict[str, str]]:
    """Return the page, and the headers that allow its own script, Swagger UI, and requests to this service only."""
    page = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",  # beside the page, wherever a proxy puts both
            title="Lengthwise",
            swagger_js_url=f"{ASSETS}swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}swagger-ui.css",
            swagger_favicon_url="data:,",
        ).body
    )
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in scripts)
    policy = (
        f"default-src 'none'; script-src {ASSETS} {hashes}; style-src {ASSETS} 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


# Without a key, both say what anyone can read in the source.
ROUTES = [
    Route("GET", "/openapi.json", describe, access="open"),
    Route("GET", "/docs", show, access="open"),
]
