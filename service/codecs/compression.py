"""Compressed bodies, opened within a bound."""

import zlib

from service.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType

EITHER_HEADER = 32 + zlib.MAX_WBITS  # of gzip or of zlib, which HTTP calls deflate


def require_encoding(encoding: str) -> None:
    """Refuse a `Content-Encoding` that cannot be opened.

    Raises:
        UnsupportedMediaType: carries what was found.
    """
    if encoding not in ("", "identity", "gzip", "deflate"):
        raise UnsupportedMediaType(encoding[:40], "gzip, deflate or identity", "Content-Encoding")


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Open a body; no more than `limit` bytes of it are ever held.

    Args:
        body: as it came.
        encoding: a `Content-Encoding` that `require_encoding` lets pass.
        limit: bytes the opened body may have.

    Raises:
        BodyTooLarge: it has more.
        MalformedBody: it is not what it says, ends early or goes on after its end.
    """
    if encoding in ("", "identity"):
        return body
    opener = zlib.decompressobj(EITHER_HEADER)
    try:
        opened = opener.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedBody(encoding, str(error)) from error
    if len(opened) > limit:
        raise BodyTooLarge(limit)
    if not opener.eof:
        raise MalformedBody(encoding, "it ends early")
    if opener.unused_data:
        raise MalformedBody(encoding, f"{len(opener.unused_data)} bytes follow its end")
    return opened
