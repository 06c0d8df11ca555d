"""NumPy's `.npz`: `values`, all steps end to end, and `lengths`. The zip around them is opened within bounds."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from service.codecs.binary.arrays import assemble
from service.codecs.binary.npy import read_array
from service.codecs.question import Format
from service.encoder.sequences import InputSpec, Sequences
from service.errors import BodyTooLarge, InvalidField, MalformedBody

MEDIA_TYPE = "application/x-npz"

MEMBERS = ("values", "lengths")
MAX_MEMBERS = 64  # of which the names are read

# The records of a zip: at its end, one in its directory, one before each member's bytes (APPNOTE 4.3).
END = struct.Struct("<4s4H2LH")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
STORED, DEFLATED = 0, 8


class Member(NamedTuple):
    """What a zip's directory says of a member: its bytes are within the file, `size` of them once opened."""

    method: int
    crc: int
    size: int
    packed: memoryview


def read(body: bytes, spec: InputSpec, limit: int) -> Sequences:
    """Read sequences.

    Args:
        body: the zip.
        spec: what the model reads.
        limit: bytes that its members may have once opened.

    Raises:
        InvalidRequest: one of its subclasses: it is not such a file, or does not hold sequences of the model's.
        BodyTooLarge: opened, it has more than `limit` bytes.
    """
    try:
        found = list(_list_members(memoryview(body)))
    except struct.error:
        raise MalformedBody("npz", "its directory is cut") from None
    members = dict(found)
    for name in members:
        if name not in MEMBERS:
            raise InvalidField(repr(name[:40]), "not a member of this npz", " and ".join(MEMBERS))
    if len(members) < len(found):
        raise InvalidField(next(name for name, _ in found), "given more than once", "each member once")
    for name in MEMBERS:
        if name not in members:
            raise InvalidField(name, "missing", f"{name}.npy in the npz")
    if sum(members[name].size for name in MEMBERS) > limit:
        raise BodyTooLarge(limit)
    values, lengths = (read_array(_open(members[name], name), f"npz, {name}") for name in MEMBERS)
    return assemble(values, lengths, spec)


def _list_members(file: memoryview) -> Iterator[tuple[str, Member]]:
    """Read the directory of a zip, which is at its end; names come without `.npy`."""
    _, _, _, _, count, _, place, comment = record = END.unpack_from(file, max(0, len(file) - END.size))
    if record[0] != b"PK\5\6" or comment:
        raise MalformedBody("npz", "it does not end as a zip does")
    if count > MAX_MEMBERS:
        raise MalformedBody("npz", f"it has {count} members, over {MAX_MEMBERS}")
    for _ in range(count):
        entry = ENTRY.unpack_from(file, place)
        mark, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, local = entry
        if mark != b"PK\1\2" or flags & 1 or method not in (STORED, DEFLATED):
            raise MalformedBody("npz", "a member is encrypted, or neither stored nor deflated, or its entry is wrong")
        place += ENTRY.size
        title = bytes(file[place : place + name]).decode("latin-1")
        place += name + extra + comment
        *_, local_name, local_extra = before = LOCAL.unpack_from(file, local)
        start = local + LOCAL.size + local_name + local_extra
        if before[0] != b"PK\3\4" or start + packed > len(file) or (method == STORED and packed != size):
            raise MalformedBody("npz", "a member is not where, or not as large as, its entry says")
        yield title.removesuffix(".npy"), Member(method, crc, size, file[start : start + packed])


def _open(member: Member, name: str) -> bytes | memoryview:
    """Return a member's bytes; no more than its `size` are ever held."""
    opened: bytes | memoryview = member.packed
    if member.method == DEFLATED:
        opener = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            opened = opener.decompress(member.packed, member.size + 1)
        except zlib.error as error:
            raise MalformedBody("npz", f"{name}: {error}") from error
    if len(opened) != member.size or zlib.crc32(opened) != member.crc:
        raise MalformedBody("npz", f"{name} is not what its size and checksum say")
    return opened


FORMAT = Format(
    MEDIA_TYPE,
    body="`values`, all steps end to end, `(sum of lengths, features)` floats or `(sum of lengths,)` token ids, and "
    "`lengths`, int64, as `numpy.savez` or `numpy.savez_compressed` writes them.",
    read=read,
)
