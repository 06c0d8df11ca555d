"""The OpenAPI document, its reader at `/docs`, and the files of the page at `/`: nothing in them is secret.

A page may run, load and reach nothing but what comes from this service. What is served is told behind the key.
"""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.api.routing import Route, service_of
from service.errors import InvalidKey
from service.page.files import list_files, read_file

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # asked again each time, and answered with 304 if nothing changed
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}
# Of what a browser runs by itself, which all that it loads is bound by.
RUN = ("index.html", "worker.js")
RUN_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


async def describe(request: Request) -> Response:
    """Answer with the document; only a client that may ask the models anything is told of them."""
    document = service_of(request).document
    written = document.write() if _brings_key(request) else document.write_plain()
    return Response(written, headers={"Vary": "Authorization"}, media_type="application/json")


def _brings_key(request: Request) -> bool:
    """Whether a request to an open route brings a key all the same, or no route needs one."""
    keys = service_of(request).keys
    try:
        return keys is None or bool(keys.recognize(request.scope["headers"]))
    except InvalidKey:
        return False


async def send_file(request: Request, *, folder: str, name: str) -> Response:
    """Send a static file, compressed if the client takes that, unless it has it already."""
    file = read_file(folder, name)
    is_compressed = _takes_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{file.tag}-gzip"' if is_compressed else f'"{file.tag}"'
    headers = {**HEADERS, **(RUN_HEADERS if name in RUN else {}), "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if is_compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if is_compressed else file.content, headers=headers, media_type=file.media_type)


def _takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` names gzip, and not to refuse it."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";")
        if coding == "gzip":
            return weight.rstrip("0.") != "q="
    return False


def _route_files(folder: str, path: str, tag: str) -> list[Route]:
    """Return the routes of a folder's files: its index under the path itself, the others below it."""
    below = f"/{folder}" if path == "/" else path
    return [
        Route(
            "GET",
            path if name == "index.html" else f"{below}/{name}",
            partial(send_file, folder=folder, name=name),
            access="open",
            tag=tag,
        )
        for name in list_files(folder)
    ]


# Without a key, all of it says what anyone can read in the source.
ROUTES = [
    Route("GET", "/openapi.json", describe, access="open"),
    *_route_files("docs", "/docs", tag="docs"),
    *_route_files("page", "/", tag="page"),
]
