"""Binary bodies and answers: what they hold is what JSON holds, and what is wrong with them is said, within bounds."""

import base64
import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.codecs import question
from service.codecs.binary import arrow, npy, npz
from service.encoder.sequences import Features, InputSpec, Tokens
from service.errors import BodyTooLarge, InvalidRequest
from tests.conftest import FEATURES, draw_sequences
from tests.memory import run_within

Arrays = list[npt.NDArray[np.float32]]

SPEC = InputSpec(Features(FEATURES))
TOKENS = InputSpec(Tokens(100))
LIMIT = 2**25
SEQUENCES = draw_sequences([3, 1, 9, 4])
STEP = pa.list_(pa.float32(), FEATURES)


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """Write an array as `numpy.save` does."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_npz(values: npt.NDArray[Any], lengths: Any, *, compress: bool = False) -> bytes:
    """Write sequences as `numpy.savez` does."""
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, values=values, lengths=np.asarray(lengths))
    return file.getvalue()


def write_arrow(*columns: pa.Array, name: str = "sequence", compression: str | None = None) -> bytes:
    """Write a stream with one record batch for each column."""
    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(file, pa.schema([(name, columns[0].type)]), options=options) as stream:
        for column in columns:
            stream.write_batch(pa.record_batch([column], [name]))
    return file.getvalue()


def to_column(sequences: Arrays, kind: Any = None) -> pa.Array:
    """Turn sequences into a column."""
    return pa.array([steps.tolist() for steps in sequences], kind or pa.list_(STEP))


def join(sequences: Arrays) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Lay sequences end to end."""
    return np.concatenate(sequences), [len(steps) for steps in sequences]


def post(client: TestClient, kind: str, body: bytes, accept: str = "*/*", query: str = "") -> httpx.Response:
    """Post a body of some kind."""
    return client.post(f"/encode{query}", content=body, headers={"Content-Type": kind, "Accept": accept})  # type: ignore[return-value]


def read_arrow(body: bytes) -> npt.NDArray[np.float32]:
    """Read the embeddings of an Arrow answer."""
    table = pa.ipc.open_stream(body).read_all()
    rows: npt.NDArray[np.float32] = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    return rows


def embed_every_way(client: TestClient, sequences: Arrays) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Encode sequences through every format, in and out, that is to be bit-identical."""
    plain = json.dumps({"sequences": [steps.tolist() for steps in sequences]}).encode()
    coded = json.dumps({"sequences": [steps.tolist() for steps in sequences], "encoding_format": "base64"}).encode()
    values, lengths = join(sequences)
    lines = b"".join(json.dumps(steps.tolist()).encode() + b"\n" for steps in sequences)
    binary = {
        npz.MEDIA_TYPE: write_npz(values, lengths),
        arrow.MEDIA_TYPE: write_arrow(to_column(sequences[:1]), to_column(sequences[1:], pa.list_(STEP))),
    }

    def of_base64(rows: list[str]) -> npt.NDArray[np.float32]:
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])

    yield "json, base64", of_base64(client.post("/encode", content=coded).json()["embeddings"])
    answer = client.post("/encode", content=plain).json()
    yield "json, floats", np.array(answer["embeddings"], dtype=np.float32)
    yield (
        "ndjson",
        of_base64(
            [
                json.loads(line)["embedding"]
                for line in post(client, "application/x-ndjson", lines, query="?encoding_format=base64").iter_lines()
            ]
        ),
    )
    for kind, body in {"application/json": plain, **binary}.items():
        yield f"{kind}, npy", np.load(io.BytesIO(post(client, kind, body, npy.MEDIA_TYPE).content))
        yield f"{kind}, arrow", read_arrow(post(client, kind, body, arrow.MEDIA_TYPE).content)
    for kind, body in binary.items():
        yield (
            f"{kind}, base64",
            of_base64(post(client, kind, body, query="?encoding_format=base64").json()["embeddings"]),
        )
    each = [post(client, npy.MEDIA_TYPE, write_npy(steps), npy.MEDIA_TYPE).content for steps in sequences]
    yield "npy", np.concatenate([np.load(io.BytesIO(content)) for content in each])


def test_every_format_gives_the_same_bits(client: TestClient) -> None:
    """One input through every format, in and out, gives one float32 array, JSON's decimal numbers included."""
    found = dict(embed_every_way(client, SEQUENCES))
    assert len(found) == 12
    expected = found["json, base64"]
    assert expected.shape == (4, 16)
    for way, embeddings in found.items():
        assert embeddings.dtype == np.float32, way
        assert embeddings.tobytes() == expected.tobytes(), way


def test_arrow_answers_carry_the_lengths(client: TestClient) -> None:
    """Beside `embedding` of fixed size there is `length`, int64, and the stages are timed as for JSON."""
    response = post(client, npz.MEDIA_TYPE, write_npz(*join(SEQUENCES)), arrow.MEDIA_TYPE)
    table = pa.ipc.open_stream(response.content).read_all()
    assert table.schema.types == [pa.list_(pa.float32(), 16), pa.int64()]
    assert table["length"].to_pylist() == [3, 1, 9, 4]
    assert response.headers["content-type"] == arrow.MEDIA_TYPE
    assert response.headers["server-timing"].startswith("decode;dur=")


def test_options_of_binary_bodies_are_in_the_query(client: TestClient) -> None:
    """`normalize`, `model` and `encoding_format` do what they do in JSON."""
    body = write_npz(*join(SEQUENCES))
    plain = np.load(io.BytesIO(post(client, npz.MEDIA_TYPE, body, npy.MEDIA_TYPE).content))
    scaled = np.load(
        io.BytesIO(post(client, npz.MEDIA_TYPE, body, npy.MEDIA_TYPE, "?normalize=true&model=made").content)
    )
    np.testing.assert_allclose(scaled, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)
    answer = post(client, npz.MEDIA_TYPE, body, query="?normalize=false").json()
    assert np.array(answer["embeddings"], np.float32).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("query", "status", "path"),
    [
        ("?normalize=1", 422, "normalize"),
        ("?normalize=true&normalize=true", 422, "normalize"),
        ("?pooling=max", 422, "'pooling'"),
        ("?lengths=3", 422, "lengths"),
        ("?outputs=", 422, "outputs[0]"),
        ("?outputs=steps", 422, "outputs"),
        ("?encoding_format=hex", 422, "encoding_format"),
        ("?model=other", 404, "model"),
    ],
)
def test_a_wrong_option_is_named(query: str, status: int, path: str, client: TestClient) -> None:
    """What the query asks wrongly is refused as in a body."""
    response = post(client, npz.MEDIA_TYPE, write_npz(*join(SEQUENCES)), query=query)
    assert (response.status_code, response.json()["path"]) == (status, path)


@pytest.mark.parametrize("accept", [npy.MEDIA_TYPE, arrow.MEDIA_TYPE])
def test_only_json_holds_more_than_embeddings(accept: str, client: TestClient) -> None:
    """Steps in another kind of answer are refused before anything runs."""
    for kind, body, query in (
        (npz.MEDIA_TYPE, write_npz(*join(SEQUENCES)), "?outputs=embedding,steps"),
        ("application/json", b'{"sequences": [[[1, 2, 3]]], "outputs": ["steps"]}', ""),
    ):
        problem = post(client, kind, body, accept, query).json()
        assert problem["type"] == "urn:lengthwise:problem:not-offered"
        assert (
            problem["detail"]
            == f"outputs asks for more than embeddings, which are all that {accept} holds: accept JSON."
        )


@given(lengths=st.lists(st.integers(0, 5), max_size=6), large=st.booleans(), cut=st.integers(0, 6))
def test_binary_bodies_are_read_as_they_were_written(lengths: list[int], large: bool, cut: int) -> None:  # noqa: FBT001
    """npz, plain and compressed, and Arrow, in one batch or two, give the values and lengths that went in."""
    sequences = [np.zeros((0, FEATURES), np.float32), *draw_sequences(lengths)]
    values, sizes = join(sequences)
    kind = (pa.large_list if large else pa.list_)(STEP)
    bodies = [
        npz.read(write_npz(values, sizes), SPEC, LIMIT),
        npz.read(write_npz(values, sizes, compress=True), SPEC, LIMIT),
        arrow.read(write_arrow(to_column(sequences, kind)), SPEC, LIMIT),
        arrow.read(write_arrow(to_column(sequences[:cut], kind), to_column(sequences[cut:], kind)), SPEC, LIMIT),
    ]
    for read in bodies:
        assert read.values.tobytes() == values.tobytes()
        assert read.values.shape == values.shape
        assert read.lengths.tolist() == sizes
        assert (read.values.dtype.str, read.lengths.dtype.str) == ("<f4", "<i8")


def test_token_ids_are_read_from_every_format() -> None:
    """Ids come as integers of any width that int64 holds, and leave as int64."""
    ids, lengths = [5, 7, 2, 9], [1, 3]
    for dtype in (np.int64, np.int32, np.uint8):
        read = npz.read(write_npz(np.array(ids, dtype), lengths), TOKENS, LIMIT)
        assert (read.values.tolist(), read.values.dtype.str, read.lengths.tolist()) == (ids, "<i8", lengths)
    assert npy.read(write_npy(np.array(ids)), TOKENS, LIMIT).lengths.tolist() == [4]
    column = pa.array([[5], [7, 2, 9]], pa.large_list(pa.int64()))
    read = arrow.read(write_arrow(column), TOKENS, LIMIT)
    assert (read.values.tolist(), read.lengths.tolist()) == (ids, lengths)


def test_wider_floats_are_rounded_and_narrower_ones_kept(client: TestClient) -> None:
    """float64 becomes the nearest float32, float16 the same number, and what overflows is refused with its place."""
    wide = np.array([[0.1, 1e-50, 3.0]])
    assert npy.read(write_npy(wide), SPEC, LIMIT).values.tolist() == wide.astype(np.float32).tolist()
    half = np.array([[0.1, 1, 2]], np.float16)
    assert npy.read(write_npy(half), SPEC, LIMIT).values.tolist() == half.tolist()
    problem = post(client, npy.MEDIA_TYPE, write_npy(np.array([[1, 2, 3], [1, 1e39, 3]]))).json()
    assert (problem["type"], problem["path"]) == ("urn:lengthwise:problem:non-finite-value", "sequences[0][1][1]")


def test_what_npy_writes_numpy_reads() -> None:
    """The header is NumPy's own, whatever the shape, and the data begin at a multiple of 64 bytes."""
    for shape in ((1, 1), (3, 128), (100_000, 2), (0, 5)):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        written = npy.write_array(array)
        assert written == write_npy(array)


VALUES, LENGTHS = join(SEQUENCES)
NPY, NPZ, ARROW = write_npy(VALUES), write_npz(VALUES, LENGTHS), write_arrow(to_column(SEQUENCES))
KINDS = {"npy": npy.MEDIA_TYPE, "npz": npz.MEDIA_TYPE, "arrow": arrow.MEDIA_TYPE}


def with_offsets(*offsets: int) -> bytes:
    """Write a stream whose offsets are others."""
    written = np.array([0, 3, 4, 13, 17], np.int32).tobytes()
    assert ARROW.count(written) == 1
    return ARROW.replace(written, np.array(offsets, np.int32).tobytes())


def edit_header(array: npt.NDArray[Any], old: str, new: str) -> bytes:
    """Write an array whose header says something else, padded to the size it had."""
    file = write_npy(array)
    header = file[10:128].decode()
    return file[:10] + header.replace(old, new).rstrip().ljust(117)[:117].encode() + b"\n" + file[128:]


def repack(members: dict[str, bytes], **fields: int) -> bytes:
    """Write a zip, then overwrite fields of the first entry of its directory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    body = bytearray(file.getvalue())
    place = body.index(b"PK\1\2")
    for field, value in fields.items():
        form, offset = {
            "flags": ("<H", 8),
            "method": ("<H", 10),
            "packed": ("<I", 20),
            "size": ("<I", 24),
            "local": ("<I", 42),
        }[field]
        struct.pack_into(form, body, place + offset, value)
    return bytes(body)


BOTH = {"values.npy": NPY, "lengths.npy": write_npy(np.array(LENGTHS))}

BAD: dict[str, tuple[str, bytes, str]] = {  # kind, body, a part of the detail
    "npy: empty": ("npy", b"", "cut"),
    "npy: text": ("npy", b"[[1, 2, 3]]", "does not begin"),
    "npy: cut in its header": ("npy", NPY[:60], "cut"),
    "npy: cut in its data": ("npy", NPY[:-1], "do not make the bytes"),
    "npy: longer than it says": ("npy", NPY + b"\0", "do not make the bytes"),
    "npy: huge shape": ("npy", edit_header(VALUES, "(17, 3)", f"({10**15}, 3)"), "do not make the bytes"),
    "npy: shape beyond NumPy's": ("npy", edit_header(VALUES[:0], "(0, 3)", f"(0, {10**30})"), "do not make the bytes"),
    "npy: negative shape": ("npy", edit_header(VALUES, "(17, 3)", "(-17, -3)"), "shape of whole numbers"),
    "npy: no shape": ("npy", edit_header(VALUES, "'shape'", "'descr'"), "does not give"),
    "npy: code in its header": ("npy", edit_header(VALUES, "(17, 3)", "exit()"), "does not give"),
    "npy: Fortran order": ("npy", write_npy(np.asfortranarray(VALUES)), "Fortran"),
    "npy: big-endian": ("npy", write_npy(VALUES.astype(">f4")), "little-endian"),
    "npy: objects": ("npy", write_npy(np.array([[{}, 1, 2]], object)), "dtype"),
    "npy: complex": ("npy", write_npy(VALUES.astype(np.complex64)), "dtype"),
    "npy: integers": ("npy", write_npy(VALUES.astype(np.int64)), "array of int64: expected float32"),
    "npy: three dimensions": ("npy", write_npy(VALUES[None]), "3 dimensions"),
    "npy: other features": ("npy", write_npy(VALUES[:, :2]), "2 features"),
    "npy: not finite": ("npy", write_npy(np.array([[1, np.nan, 3]], np.float32)), "not finite"),
    "npy: no steps": ("npy", write_npy(VALUES[:0]), "no steps"),
    "npy: header of 64 kB": ("npy", b"\x93NUMPY\1\0\xff\xff" + b" " * 65535, "65535 bytes"),
    "npz: empty": ("npz", b"", "cut"),
    "npz: text": ("npz", b"PK" * 50, "does not end"),
    "npz: cut": ("npz", NPZ[:-1], "does not end"),
    "npz: cut at its start": ("npz", NPZ[7:], "entry is wrong"),
    "npz: only its end": ("npz", NPZ[-22:], "cut"),
    "npz: no lengths": ("npz", repack({"values.npy": NPY}), "lengths is missing"),
    "npz: an unknown member": (
        "npz",
        repack({**BOTH, "mask.npy": NPY}),
        "'mask' is not a member of this npz: expected values and lengths",
    ),
    "npz: a doubled member": (
        "npz",
        repack({**BOTH, "valuez.npy": NPY}).replace(b"valuez", b"values"),
        "values is given more than once: expected each member once",
    ),
    "npz: a member by two names": (
        "npz",
        repack({**BOTH, "values": NPY}),
        "values is given more than once: expected each member once",
    ),
    "npz: encrypted": ("npz", repack(BOTH, flags=1), "encrypted"),
    "npz: unknown method": ("npz", repack(BOTH, method=93), "neither stored nor deflated"),
    "npz: stored as deflated": ("npz", repack(BOTH, method=8), "values"),
    "npz: member beyond its end": ("npz", repack(BOTH, packed=10**6, size=10**6), "as large as"),
    "npz: member elsewhere": ("npz", repack(BOTH, local=10**9), "cut"),
    "npz: wrong size": ("npz", repack(BOTH, size=5), "as large as"),
    "npz: changed on the way": ("npz", NPZ.replace(VALUES.tobytes(), (VALUES + 1).tobytes()), "checksum"),
    "npz: lengths sum to less": ("npz", write_npz(VALUES, [3, 1, 9]), "sum to 13, and there are 17 steps"),
    "npz: lengths sum to more": ("npz", write_npz(VALUES, [9, 9]), "sum to 18"),
    "npz: lengths overflow to the sum": (
        "npz",
        write_npz(VALUES, [2**62] * 4 + [17]),
        "lengths[0] is 4611686018427387904",
    ),
    "npz: negative length": ("npz", write_npz(VALUES, [18, -1]), "lengths[0] is 18"),
    "npz: negative length alone": ("npz", write_npz(VALUES, [-1, 17, 1]), "lengths[0] is -1"),
    "npz: lengths as floats": ("npz", write_npz(VALUES, [17.0]), "lengths is an array of float64"),
    "npz: lengths of two dimensions": ("npz", write_npz(VALUES, [[17]]), "2 dimensions"),
    "npz: no sequences": ("npz", write_npz(VALUES[:0], np.empty(0, np.int64)), "at least one sequence"),
    "npz: an empty sequence": ("npz", write_npz(VALUES, [17, 0]), "sequences[1] has no steps"),
    "npz: pickled objects": ("npz", write_npz(np.array([{}], object), [1]), "dtype"),
    "npz: huge shape": (
        "npz",
        repack({**BOTH, "values.npy": edit_header(VALUES, "(17, 3)", f"({2**61}, 3)")}),
        "do not make",
    ),
    "arrow: empty": ("arrow", b"", "schema"),
    "arrow: text": ("arrow", b"not an Arrow stream", "not valid Arrow"),
    "arrow: cut in its schema": ("arrow", ARROW[:100], "not valid Arrow"),
    "arrow: cut in its data": ("arrow", ARROW[:-60], "not valid Arrow"),
    "arrow: a batch before any schema": ("arrow", ARROW[ARROW.index(b"\xff" * 4, 4) :], "a message is a record batch"),
    "arrow: two schemas": ("arrow", ARROW[: ARROW.index(b"\xff" * 4, 4)] * 2, "a message is a schema"),
    "arrow: offsets beyond its steps": ("arrow", with_offsets(0, 3, 4, 13, 99), "not valid Arrow"),
    "arrow: offsets that fall": ("arrow", with_offsets(0, 9, 4, 13, 17), "not valid Arrow"),
    "arrow: negative offsets": ("arrow", with_offsets(-5, 3, 4, 13, 17), "not valid Arrow"),
    "arrow: no batch": ("arrow", write_arrow(to_column([])), "at least one sequence"),
    "arrow: another column": ("arrow", write_arrow(to_column(SEQUENCES), name="sequences"), "a column sequence"),
    "arrow: no lists": ("arrow", write_arrow(pa.array([1.0, 2.0])), "column of double"),
    "arrow: steps of any size": (
        "arrow",
        write_arrow(to_column(SEQUENCES, pa.list_(pa.list_(pa.float32())))),
        "a column of list",
    ),
    "arrow: doubles": (
        "arrow",
        write_arrow(to_column(SEQUENCES, pa.list_(pa.list_(pa.float64(), 3)))),
        "a column of list",
    ),
    "arrow: other features": (
        "arrow",
        write_arrow(pa.array([[[1.0, 2.0]]], pa.list_(pa.list_(pa.float32(), 2)))),
        "2 features",
    ),
    "arrow: other features in two batches": (
        "arrow",
        write_arrow(*[pa.array([[[1.0, 2.0]]], pa.list_(pa.list_(pa.float32(), 2)))] * 2),
        "2 features",
    ),
    "arrow: no features": (
        "arrow",
        write_arrow(pa.array([[[], []]], pa.list_(pa.list_(pa.float32(), 0)))),
        "0 features",
    ),
    "arrow: null sequence": ("arrow", write_arrow(pa.array([None], pa.list_(STEP))), "null where a sequence"),
    "arrow: null step": ("arrow", write_arrow(pa.array([[None]], pa.list_(STEP))), "null where a step"),
    "arrow: null number": ("arrow", write_arrow(pa.array([[[1.0, None, 2.0]]], pa.list_(STEP))), "null where a number"),
    "arrow: zstd": ("arrow", write_arrow(to_column(SEQUENCES), compression="zstd"), "compressed"),
    "arrow: lz4": ("arrow", write_arrow(to_column(SEQUENCES), compression="lz4"), "compressed"),
    "arrow: dictionary": ("arrow", write_arrow(pa.array(["a", "b"]).dictionary_encode()), "a message is a dictionary"),
}


TURNED = np.zeros((FEATURES, 5), np.float32)  # channels first
TWICE = np.concatenate([TURNED, TURNED])
TURNED_BODIES = {
    "npy": ("npy", write_npy(TURNED), True),
    "npz of two": ("npz", write_npz(TWICE, [FEATURES, FEATURES]), True),
    "arrow": ("arrow", write_arrow(to_column([TURNED], pa.list_(pa.list_(pa.float32(), 5)))), True),
    "npz whose sequences differ": ("npz", write_npz(TWICE, [FEATURES - 1, FEATURES + 1]), False),
    "npy of more steps": ("npy", write_npy(TWICE), False),
}


@pytest.mark.parametrize("case", TURNED_BODIES)
def test_steps_and_features_that_changed_places_are_told(case: str, client: TestClient) -> None:
    """If the other axis has as many numbers as a step should, the answer says so; and only then."""
    kind, body, is_turned = TURNED_BODIES[case]
    detail = post(client, KINDS[kind], body).json()["detail"]
    assert "has 5 features: the model reads 3 in each step" in detail
    hint = ", and the sequence has 3 steps: channels-first data must be transposed."
    assert detail.endswith(hint) == is_turned, detail


@pytest.mark.parametrize("case", BAD)
def test_bad_binary_bodies_are_422_and_say_why(case: str, client: TestClient) -> None:
    """Each is refused as a problem that says what is wrong, and the service goes on."""
    kind, body, reason = BAD[case]
    response = post(client, KINDS[kind], body)
    assert response.status_code == 422, response.text
    assert reason in response.json()["detail"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_cut_anywhere_is_never_a_500(kind: str) -> None:
    """Whatever is left of a file, it is read as fewer sequences or refused, by its reader itself."""
    read, body = {"npy": (npy.read, NPY), "npz": (npz.read, NPZ), "arrow": (arrow.read, ARROW)}[kind]
    for end in range(len(body)):
        try:
            assert read(body[:end], SPEC, LIMIT).steps <= len(VALUES)
        except InvalidRequest:
            continue


@given(place=st.integers(0, len(ARROW) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_of_an_arrow_stream_is_never_a_500(place: int, byte: int) -> None:
    """Offsets, sizes and tables that lie are refused, or change nothing but numbers."""
    body = ARROW[:place] + bytes([byte]) + ARROW[place + 1 :]
    try:
        read = arrow.read(body, SPEC, LIMIT)
    except InvalidRequest:
        return
    assert read.lengths.sum() == len(read.values) <= len(VALUES)


@given(place=st.integers(0, len(NPZ) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_of_an_npz_is_never_a_500(place: int, byte: int) -> None:
    """Whatever a directory or a header claims, it is refused or changes nothing."""
    body = NPZ[:place] + bytes([byte]) + NPZ[place + 1 :]
    try:
        read = npz.read(body, SPEC, LIMIT)
    except (InvalidRequest, BodyTooLarge):
        return
    assert read.values.tobytes() == VALUES.tobytes()


def bomb() -> bytes:
    """An npz of 100 MB of zeros, in some 100 kB."""
    return write_npz(np.zeros((100 * 2**20 // 12, FEATURES), np.float32), [1], compress=True)


def test_a_zip_bomb_is_413(client: TestClient) -> None:
    """What a member says it opens to is held against the limit of a body, which is named."""
    problem = post(client, npz.MEDIA_TYPE, bomb()).json()
    assert (problem["status"], problem["setting"]) == (413, "LENGTHWISE_MAX_BODY_BYTES")


def test_a_zip_bomb_that_lies_costs_bounded_memory() -> None:
    """A member that opens to more than its entry says is opened no further than that."""
    body = bytearray(bomb())
    assert len(body) < 2**18
    struct.pack_into("<I", body, body.index(b"PK\1\2") + 24, 1000)

    def open_it() -> None:
        with pytest.raises(InvalidRequest, match="checksum"):
            npz.read(bytes(body), SPEC, LIMIT)

    run_within(2**20, open_it)


@pytest.mark.parametrize("kind", KINDS)
def test_a_declared_gigabyte_is_refused_unread(kind: str, client: TestClient) -> None:
    """The length a header declares is enough to refuse a body by."""
    headers = {"Content-Type": KINDS[kind], "Content-Length": str(2**30)}
    response = client.post("/encode", content=b"", headers=headers)
    assert (response.status_code, response.json()["limit"]) == (413, LIMIT)


def test_without_pyarrow_arrow_is_refused_by_name(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is 415 and names the extra, an answer 406 and lists the others; the other formats work."""
    monkeypatch.setattr(question, "can_import", lambda _: False)
    monkeypatch.delitem(sys.modules, arrow.FORMAT.module)
    refused = post(client, arrow.MEDIA_TYPE, ARROW)
    assert refused.status_code == 415
    assert "install the service's extra arrow (pip install '.[arrow]')" in refused.json()["detail"]
    refused = post(client, npz.MEDIA_TYPE, NPZ, arrow.MEDIA_TYPE)
    assert (refused.status_code, refused.json()["path"]) == (406, "Accept")
    assert refused.json()["detail"].endswith("this answer can be application/json or application/x-npy.")
    assert post(client, npz.MEDIA_TYPE, NPZ).status_code == 200


WITHOUT_ARROW = """
import sys
sys.modules["pyarrow"] = None  # as if it were not installed
import service.app
from service.codecs.binary import arrow
print(arrow.FORMAT.is_installed)
"""


def test_the_service_neither_needs_nor_imports_pyarrow() -> None:
    """It is imported with the first Arrow body only, and its absence is known without trying."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_ARROW], capture_output=True, text=True, check=False)
    assert ran.stdout == "False\n", ran.stderr


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("application/x-npy;q=0.5, application/json;q=0.4", npy.MEDIA_TYPE),
        ("application/*, application/json;q=0", npy.MEDIA_TYPE),
        ("*/*;q=0.1, application/vnd.apache.arrow.stream", arrow.MEDIA_TYPE),
        ("APPLICATION/X-NPY; charset=x", npy.MEDIA_TYPE),
        ("application/x-ndjson", None),
        ("text/html", None),
        ("*/*;q=0", None),
        ("application/json;q=much", None),
    ],
)
def test_the_answer_is_of_the_kind_that_is_most_welcome(accept: str, expected: str | None, client: TestClient) -> None:
    """Weights decide, then the most specific range, then our order; if nothing fits, 406 lists what would."""
    response = post(client, npz.MEDIA_TYPE, NPZ, accept)
    if expected:
        assert (response.status_code, response.headers["content-type"]) == (200, expected)
    else:
        assert (response.status_code, response.json()["type"]) == (406, "urn:lengthwise:problem:not-acceptable")
        assert npy.MEDIA_TYPE in response.json()["detail"]


def test_the_document_lists_every_kind(client: TestClient) -> None:
    """Bodies, answers and the options of the query are in the OpenAPI document."""
    operation = client.get("/openapi.json").json()["paths"]["/encode"]["post"]
    assert set(operation["requestBody"]["content"]) == {*KINDS.values(), "application/json", "application/x-ndjson"}
    answers = {npy.MEDIA_TYPE, arrow.MEDIA_TYPE, "application/json", "application/x-ndjson"}
    assert set(operation["responses"]["200"]["content"]) == answers
    options = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
    assert options == {"model", "outputs", "normalize", "encoding_format"}


def test_a_large_binary_body_is_read_on_a_thread(client: TestClient) -> None:
    """Over a megabyte, the answer is that of the same sequences in small bodies."""
    sequences = draw_sequences([1000] * 90)
    body = write_npz(*join(sequences))
    assert len(body) > 2**20
    whole = np.load(io.BytesIO(post(client, npz.MEDIA_TYPE, body, npy.MEDIA_TYPE).content))
    one = np.load(io.BytesIO(post(client, npy.MEDIA_TYPE, write_npy(sequences[7]), npy.MEDIA_TYPE).content))
    assert whole[7:8].tobytes() == one.tobytes()
