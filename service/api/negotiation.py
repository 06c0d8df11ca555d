"""The media type of a body, and the one to answer with."""

from collections.abc import Sequence
from functools import lru_cache

from starlette.requests import Request

from service.errors import NotAcceptable, UnsupportedMediaType


def media_type_of(request: Request, default: str) -> str:
    """Return the media type of a body, without parameters; a request that does not say has the default of its route."""
    return request.headers.get("content-type", default).partition(";")[0].strip().lower()


def require_media_type(request: Request, *supported: str) -> None:
    """Refuse a body of another kind than these; a request that does not say has the first.

    Raises:
        UnsupportedMediaType: carries what was found.
    """
    found = media_type_of(request, supported[0])
    if found not in supported:
        raise UnsupportedMediaType(found[:80], " or ".join(supported))


def choose(request: Request, offered: Sequence[str]) -> str:
    """Return the media type to answer with.

    Args:
        request: a request that accepts anything, unless it says otherwise.
        offered: what the answer can be, the default first.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    accepted = request.headers.get("accept", "*/*")
    if accepted in ("*/*", offered[0]):
        return offered[0]
    qualities = _read_accept(accepted[:1000])
    best = max(offered, key=lambda kind: _quality(kind, qualities))  # the first of those that are equally welcome
    if not _quality(best, qualities):
        raise NotAcceptable(accepted, " or ".join(offered))
    return best


def _quality(kind: str, qualities: dict[str, float]) -> float:
    """Return how welcome a media type is: the most specific range that holds it says so."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((qualities[found] for found in ranges if found in qualities), 0.0)


@lru_cache(64)
def _read_accept(header: str) -> dict[str, float]:
    """Read `a/b;q=0.5, c/*` into qualities by range; 1 if none is given, 0 if it is not a number."""
    qualities = {}
    for part in header.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((text.removeprefix("q=") for text in parameters if text.startswith("q=")), "1")
        qualities[kind] = float(weight) if weight.replace(".", "", 1).isdecimal() and weight.isascii() else 0.0
    return qualities
