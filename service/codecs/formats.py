"""The formats of `POST /encode`, a line each: negotiation, the document and the pages are made from this list."""

from service.codecs.binary import arrow, npy, npz
from service.codecs.json import ndjson, ragged
from service.codecs.question import Format

# The first is what a body is taken for that does not say, and what a client is answered with that accepts anything.
FORMATS: tuple[Format, ...] = (
    ragged.FORMAT,
    npz.FORMAT,
    npy.FORMAT,
    arrow.FORMAT,
    ndjson.FORMAT,
)
