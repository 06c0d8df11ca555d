"""NumPy's `.npy`: one sequence in, one array of embeddings out. Read by hand: nothing in it is ever evaluated."""

import re
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from service.codecs.binary.arrays import read_steps
from service.codecs.options import AnswerOptions
from service.codecs.question import Format, Written
from service.encoder.sequences import Answer, InputSpec, Sequences
from service.errors import MalformedBody

MEDIA_TYPE = "application/x-npy"

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 1024  # NumPy's own have 128, unless a field is named or a dimension added
DTYPES = ("<f2", "<f4", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")

# A header with its white space taken out, so that there is one way to read it.
_HEADER = re.compile(
    rb"\{(?:(?:'descr':'(?P<descr>[^']*)'|'fortran_order':(?P<fortran>True|False)"
    rb"|'shape':\((?P<shape>[0-9,]*)\)),?){3}\}"
)


def read(body: bytes, spec: InputSpec, _limit: int) -> Sequences:
    """Read one sequence, `(T, F)` numbers or `(T,)` token ids.

    Raises:
        InvalidRequest: one of its subclasses: it is not such a file, or not a sequence of the model's.
    """
    steps = read_steps(read_array(body, "npy"), "The array", spec)
    return Sequences(steps, np.array([len(steps)], dtype=np.int64))


def read_array(file: bytes | memoryview, name: str) -> npt.NDArray[Any]:
    """Read an array, as a view of the file's bytes.

    Args:
        file: the whole file.
        name: what the error calls it.

    Raises:
        MalformedBody: it is cut or longer than it says, or does not hold plain little-endian numbers in C order.
    """
    start = 10 if file[6:7] == b"\x01" else 12  # versions 2 and 3 have longer headers
    size = int.from_bytes(file[8:start], "little")
    if file[:6] != MAGIC or file[6:7] not in (b"\x01", b"\x02", b"\x03") or len(file) < start + size:
        raise MalformedBody(name, "it is cut, or does not begin as NumPy's files do")
    if size > MAX_HEADER_BYTES:
        raise MalformedBody(name, f"its header has {size} bytes, over {MAX_HEADER_BYTES}")
    header = _HEADER.fullmatch(b"".join(bytes(file[start : start + size]).split()))
    if header is None or None in header.groups():
        raise MalformedBody(name, "its header does not give dtype, order and a shape of whole numbers")
    descr = header["descr"].decode("latin-1")
    if descr not in DTYPES:
        raise MalformedBody(name, f"its dtype is {descr[:20]!r}: expected little-endian numbers, as '<f4'")
    shape = tuple(map(int, filter(None, header["shape"].split(b","))))
    if header["fortran"] == b"True":
        raise MalformedBody(name, "it is in Fortran order: save numpy.ascontiguousarray of it")
    dtype = np.dtype(descr)
    expected, found = prod(shape) * dtype.itemsize, len(file) - start - size
    try:
        if expected == found:
            return np.ndarray(shape, dtype, file, start + size)
    except (OverflowError, ValueError):  # dimensions beyond NumPy's, of which another is 0
        pass
    raise MalformedBody(name, "its shape and dtype do not make the bytes that follow its header")


def write(answer: Answer, _options: AnswerOptions) -> Written:
    """Write the embeddings `(N, D)`, float32."""
    return write_array(answer.embeddings), ((b"content-type", MEDIA_TYPE.encode()),)


def write_array(array: npt.NDArray[np.float32]) -> bytes:
    """Write a float32 array of any shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {array.shape}, }}"
    header = header.ljust(-(len(header) + 11) % 64 + len(header)) + "\n"  # data begins at a multiple of 64 bytes
    return b"".join(
        (MAGIC, b"\x01\x00", len(header).to_bytes(2, "little"), header.encode(), array.astype("<f4").tobytes())
    )


FORMAT = Format(
    MEDIA_TYPE,
    body="One sequence, `(steps, features)` floats or `(steps,)` token ids, as `numpy.save` writes it.",
    answer="The embeddings, float32 `(sequences, dim)`.",
    read=read,
    write=write,
)
