"""The JSON codec: two decoders that must agree, and errors that name the place."""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service import errors
from service.codecs import large
from service.codecs.json import exact, plain, ragged
from service.codecs.json.plain import Bounds
from service.codecs.json.ragged import EncodeOptions
from service.codecs.options import AnswerOptions
from service.encoder.sequences import Answer, Features, InputSpec, Kind, Sequences, Tokens
from service.encoder.tokenizer import Texts, read_tokenizer
from service.settings import Limits

F = 2
MAX_STEPS = 200_000
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def kind_of(features: int | None) -> Kind:
    """Return what steps of so many features are, or token ids if there are none."""
    return Tokens() if features is None else Features(features)


def decode_whole(
    body: bytes, spec: InputSpec, most: int = MAX_STEPS, query: AnswerOptions | None = None
) -> tuple[Sequences | Texts, EncodeOptions]:
    """Parse a body, and read what it holds as a model takes it."""
    limits = Limits(max_sequence_steps=most, max_request_steps=most, empty_allowed=False)
    options, read_sequences = ragged.parse(body, query, limits, Bounds.of([spec]))
    return read_sequences(spec), options


def read_plain(body: bytes, kind: Kind, field: str = "sequences") -> tuple[Sequences, plain.Fields] | None:
    """Read a body the fast way: its sequences, and its other fields; None if it must be read the exact way."""
    parsed = plain.parse_plain(body, field)
    sequences = parsed and parsed[1](kind)
    return (sequences, parsed[0]) if parsed and sequences is not None else None


def read(body: bytes, spec: InputSpec, most: int = MAX_STEPS) -> Sequences:
    """Read a body's sequences."""
    sequences, _ = decode_whole(body, spec, most)
    assert isinstance(sequences, Sequences)
    return sequences


def read_exactly(body: bytes, features: int | None) -> Sequences:
    """Read them value by value."""
    sequences = exact.read_sequences(exact.read_document(body), InputSpec(kind_of(features)))
    assert isinstance(sequences, Sequences)
    return sequences


def decode(body: object) -> tuple[list[list[list[float]]], EncodeOptions]:
    """Decode an object's JSON, or bytes as they are, into plain lists."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sequences, options = decode_whole(raw, InputSpec(Features(F)))
    assert isinstance(sequences, Sequences)
    return [steps.tolist() for steps in sequences.split()], options


@given(st.lists(st.lists(st.tuples(FLOATS, FLOATS).map(list), max_size=4), max_size=4))
def test_both_decoders_agree_bit_for_bit(sequences: list[list[list[float]]]) -> None:
    """What the fast decoder accepts, the exact one reads the same; every float32 survives the trip."""
    body = json.dumps({"sequences": sequences}).encode()
    fast = read_plain(body, Features(F))
    exact = read_exactly(body, F)
    assert fast is not None
    assert fast[0].values.tobytes() == exact.values.tobytes()
    assert fast[0].lengths.tolist() == exact.lengths.tolist() == [len(steps) for steps in sequences]
    assert [steps.tolist() for steps in fast[0].split()] == sequences


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(nested=st.lists(JSON, max_size=3) | JSON, lengths=st.none() | JSON, features=st.sampled_from([F, None]))
def test_the_fast_decoder_accepts_only_what_the_exact_one_does(
    nested: object, lengths: object, features: int | None
) -> None:
    """On any JSON at all, a body that passes the fast checks is read the same by the exact decoder."""
    body = json.dumps({"sequences": nested, "lengths": lengths}).encode()
    fast = read_plain(body, kind_of(features))
    if fast is not None:
        exact = read_exactly(body, features)
        assert fast[0].values.tobytes() == exact.values.tobytes()
        assert fast[0].lengths.tolist() == exact.lengths.tolist()


def test_a_list_hidden_among_numbers_is_found() -> None:
    """`[1, [2]]` flattens to two numbers and is not a step of two numbers; `lengths: null` does not hide it."""
    for body in ({"sequences": [[[1, [2]]]]}, {"sequences": [[[1, [2]]]], "lengths": None}):
        with pytest.raises(errors.NotANumber, match=r"sequences\[0\]\[0\]\[1\] is a list of 1"):
            decode(body)


@contextmanager
def in_pieces() -> Iterator[list[bytes]]:
    """Have bodies of any size read in the smallest pieces; the list gets what is decoded in one go."""
    whole = plain._parse_whole
    bodies: list[bytes] = []

    def parse_whole(body: bytes, *arguments: Any, **options: Any) -> Any:
        bodies.append(body)
        return whole(body, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "PIECED_BODY_BYTES", 0)
        patch.setattr(large, "PIECE_BYTES", 0)
        patch.setattr(plain, "_parse_whole", parse_whole)
        yield bodies


@pytest.mark.parametrize(("features", "step"), [(F, st.tuples(FLOATS, FLOATS).map(list)), (None, st.integers(1, 99))])
@pytest.mark.parametrize("separators", [None, (",", ":")])
@pytest.mark.parametrize(
    "form",
    [
        '{"sequences": %s}',
        '{"model":"m","sequences":%s}',
        '{"sequences" :%s , "lengths":[1,2],"outputs":["embedding"]}',
    ],
)
@given(data=st.data())
def test_a_large_body_is_read_in_pieces(
    data: st.DataObject, form: str, separators: tuple[str, str] | None, features: int | None, step: Any
) -> None:
    """They are cut between sequences, give what the whole gives, and nothing has to be read twice."""
    sequences = data.draw(st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=6))
    body = (form % json.dumps(sequences, separators=separators)).encode()
    whole = read_plain(body, kind_of(features))
    with in_pieces() as bodies:
        pieces = read_plain(body, kind_of(features))
    assert whole is not None
    assert pieces is not None
    assert pieces[0].values.tobytes() == whole[0].values.tobytes()
    assert pieces[0].lengths.tolist() == whole[0].lengths.tolist()
    assert pieces[1:] == whole[1:]
    assert len(bodies) == 1 + len(sequences)
    assert body not in bodies


@given(nested=st.lists(JSON, max_size=3) | JSON, lengths=st.none() | JSON, features=st.sampled_from([F, None]))
def test_pieces_are_accepted_only_where_the_whole_is(nested: object, lengths: object, features: int | None) -> None:
    """On any JSON at all, what is read in pieces is read the same by the exact decoder."""
    body = json.dumps({"sequences": nested, "lengths": lengths}).encode()
    with in_pieces():
        fast = read_plain(body, kind_of(features))
    if fast is not None:
        exact = read_exactly(body, features)
        assert fast[0].values.tobytes() == exact.values.tobytes()
        assert fast[0].lengths.tolist() == exact.lengths.tolist()


@given(st.lists(st.sampled_from([*b'[],:{}"1 ', *(b'"sequences"', b"[[1,2]]", b'"model"', b"[1,2],")]), max_size=14))
def test_pieces_of_what_is_no_json_are_refused(tokens: list[int | bytes]) -> None:
    """Whatever brackets, commas and quotes stand in the wrong place, only what is valid as a whole is read."""
    parts = [bytes([token]) if isinstance(token, int) else token for token in tokens]
    body = b'{"sequences":[[[1,2]]' + b"".join(parts) + b"}"
    with in_pieces():
        pieces = read_plain(body, Features(F))
    whole = read_plain(body, Features(F))
    if pieces is not None:
        assert whole is not None
        assert pieces[0].lengths.tolist() == whole[0].lengths.tolist()
        assert pieces[1] == whole[1]


@pytest.mark.parametrize(
    "body",
    [
        b'{"sequences":[[[1,2]],]}',
        b'{"sequences":[[[1,2]],,[[1,2]]]}',
        b'{"sequences":[[[1,2]]],"sequences":[[[1,2]]]}',
        b'{"sequences":[[[1,2]]],"s\\u0065quences":[[[1,2]]]}',
        b'{"x":{"sequences":[[[1,2]]]},"s\\u0065quences":[]}',
        b'{"x":{"sequences":[[[1,2]]]},"model":"m"}',
        b'{"x":{"sequences":[[[1,2]]]},"sequences":[]}',
        b'[{"sequences":[[[1,2]],[[3,4]]]}]',
        b'{"sequences":[[[1,2]],"no"]}',
        b'\xef\xbb\xbf{"sequences":[[[1,2]],[[3,4]]]}',
    ],
)
def test_pieces_take_nothing_that_is_not_plain(body: bytes) -> None:
    """Nor does the whole: the exact decoder says what is wrong."""
    with in_pieces():
        assert read_plain(body, Features(F)) is None


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    """No body makes the decoder fail in any way but its own errors."""
    try:
        decode_whole(body, InputSpec(Features(F)))
    except errors.InvalidRequest as error:
        assert str(error)  # noqa: PT017 - the claim is on whatever was raised, if anything was


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        (b"{", errors.MalformedJson, "line 1 column 2"),
        (b"", errors.MalformedJson, "Expecting value"),
        (b"\xff", errors.MalformedJson, "its byte 0 is not UTF-8"),
        (b"[" * 100_000, errors.MalformedJson, "nested too deeply"),
        (b"[" * 5000 + b"]" * 5000, errors.MalformedJson, "nested too deeply"),  # Python 3.13 would read it
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, errors.MalformedJson, "nested too deeply"),
        ([], errors.InvalidField, "The body is a list of 0: expected an object"),
        ({}, errors.InvalidField, "sequences is missing"),
        (b'\xef\xbb\xbf{"sequences": []}', errors.MalformedJson, "BOM"),
        (b'{"\\ud800": 1, "\\ud800": 1}', errors.InvalidField, r"'\\ud800' is given twice"),
        ({"sequences": [], "x" * 999: 1}, errors.InvalidField, f"^'{'x' * 40}' is not a field"),
        ({"sequences": None}, errors.InvalidField, "sequences is null"),
        ({"sequences": {"a": 1}}, errors.InvalidField, "sequences is an object"),
        ({"sequences": [1.5]}, errors.InvalidField, r"sequences\[0\] is a number: expected a sequence"),
        ({"sequences": [[[1, 2]], "no"]}, errors.InvalidField, r"sequences\[1\] is the string 'no'"),
        ({"sequences": [[1, 2]]}, errors.InvalidField, r"sequences\[0\]\[0\] is a number: expected a step"),
        ({"sequences": [[[1, 2]], [[1, 2], [3]]]}, errors.FeatureMismatch, r"sequences\[1\]\[1\] has 1 features"),
        ({"sequences": [[[1, 2, 3]]]}, errors.FeatureMismatch, r"\[0\] has 3 features: the model reads 2"),
        ({"sequences": [[[1, 2], []]]}, errors.FeatureMismatch, r"sequences\[0\]\[1\] has 0 features.* step\.$"),
        ({"sequences": [[[1, 2, 3], [4, 5, 6]]]}, errors.FeatureMismatch, "has 2 steps: .* must be transposed"),
        ({"sequences": [[[1, 2, 3], [4, 5]]]}, errors.FeatureMismatch, r"in each step\.$"),
        ({"sequences": [[[1, "2"]]]}, errors.NotANumber, r"sequences\[0\]\[0\]\[1\] is the string '2'"),
        ({"sequences": [[[None, 2]]]}, errors.NotANumber, r"sequences\[0\]\[0\]\[0\] is null"),
        ({"sequences": [[[1, 2], [True, 2]]]}, errors.NotANumber, r"sequences\[0\]\[1\]\[0\] is true"),
        ({"sequences": [[[1, {}]]]}, errors.NotANumber, r"sequences\[0\]\[0\]\[1\] is an object"),
        (b'{"sequences": [], "sequences": []}', errors.InvalidField, "sequences is given twice"),
        ({"sequences": [[[1, 2]]], "normalise": True}, errors.InvalidField, "'normalise' is not a field .* normalize"),
        ({"sequences": [[[1, 2]]], "normalize": 1}, errors.InvalidField, "normalize is a number: .* boolean"),
        ({"sequences": [[[1, 2]]], "encoding_format": "hex"}, errors.InvalidField, "encoding_format is the string"),
        ({"sequences": [[[1, 2]]], "lengths": [1.5]}, errors.InvalidField, r"lengths\[0\] is a number"),
        ({"sequences": [[[1, 2]]], "lengths": 1}, errors.InvalidField, "lengths is a number"),
        ({"sequences": [[[1, 2]]], "lengths": []}, errors.InvalidLengths, "lengths has 0 entries for 1 sequences"),
        ({"sequences": [[[1, 2]]], "lengths": [2]}, errors.InvalidLengths, r"lengths\[0\] is 2: expected 0 to 1"),
        ({"sequences": [[[1, 2]]], "lengths": [-1]}, errors.InvalidLengths, r"lengths\[0\] is -1"),
        ({"sequences": [[[1, 2]], []], "lengths": [1, 0]}, errors.InvalidLengths, r"sequences\[1\] has 0 steps"),
    ],
)
def test_decode_names_the_fault(body: Any, error: type[errors.InvalidRequest], sentence: str) -> None:
    """Each kind of bad body gets its own error, whose sentence says where and what was expected."""
    with pytest.raises(error, match=sentence):
        decode(body)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.sampled_from([["embedding"], ["embedding", "steps", "state"]]),
    st.integers(0, 30),
)
def test_a_large_answer_is_written_in_pieces(lengths: list[int], outputs: list[Any], piece_numbers: int) -> None:
    """It is what it would be in one go."""
    count = len(lengths)
    numbers = np.arange(count * 12).astype(np.float32)
    steps = [np.full((length, 3), length, dtype=np.float32) for length in lengths]
    answer = Answer(numbers.reshape(count, 12), steps, {"h": numbers.reshape(count, 1, 2, 6)}, lengths, "m", 10)
    options = EncodeOptions(outputs=outputs)
    whole = ragged.write(answer, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE_ANSWER_NUMBERS", 0)
        patch.setattr(large, "PIECE_NUMBERS", piece_numbers)
        assert ragged.write(answer, options) == whole
    assert answer.numbers == 24 * count + 3 * sum(lengths)


def test_padded_sequences_are_cut_to_their_lengths() -> None:
    """With `lengths` the padding is dropped, whatever it holds."""
    sequences, options = decode({"sequences": [[[1, 2], [1e39, 0]], [[3, 4], [5, 6]]], "lengths": [1, 2]})
    assert sequences == [[[1, 2]], [[3, 4], [5, 6]]]
    assert options.lengths == [1, 2]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e39", "1e400", "1" + 400 * "0", "-1" + 5000 * "0"])
def test_numbers_beyond_float32_decode_as_not_finite(number: str) -> None:
    """They get past the decoder as infinities or NaN, so that one check refuses them with their place."""
    sequences = read(f'{{"sequences": [[[0, {number}]]]}}'.encode(), InputSpec(Features(F)))
    assert not np.isfinite(sequences.values[0, 1])
    assert sequences.values[0, 0] == 0


def test_a_body_with_too_many_steps_is_not_parsed() -> None:
    """Its brackets are counted first, so that a hostile body costs no more than its bytes."""
    body = b'{"sequences": [' + b"[[" * 12  # not even JSON
    with pytest.raises(errors.RequestTooLong, match="more than 8 steps"):
        decode_whole(body, InputSpec(Features(F)), 8)
    full = json.dumps({"sequences": [[[1, 2]]] * 8, "lengths": [1] * 8}).encode()
    assert read(full, InputSpec(Features(F)), 8).steps == 8


def test_integers_beyond_64_bits_are_numbers() -> None:
    """JSON has one kind of number, and float32 holds this one."""
    sequences, _ = decode({"sequences": [[[10**25, 1]]]})
    assert sequences == [[[float(np.float32(1e25)), 1.0]]]


@given(hnp.arrays(np.float32, (3, 4), elements=FLOATS))
def test_encoded_embeddings_are_exact(embeddings: Any) -> None:
    """JSON numbers round-trip to the same float32, and base64 holds the same bytes."""
    answer = Answer(embeddings, lengths=[1, 2, 3], model="m", padded_steps=9)
    as_float = orjson.loads(ragged.write(answer, EncodeOptions())[0])
    options = EncodeOptions(encoding_format="base64")
    as_base64 = orjson.loads(ragged.write(answer, options)[0])
    assert np.array(as_float["embeddings"], dtype=np.float32).tobytes() == embeddings.tobytes()
    assert b"".join(map(base64.b64decode, as_base64["embeddings"])) == embeddings.tobytes()
    assert (as_float["dim"], as_float["lengths"], as_float["model"]) == (4, [1, 2, 3], "m")
    assert as_float["usage"] == {"sequences": 3, "steps": 6, "padded_steps": 9}


TOKENS = InputSpec(Tokens(100))
STATEFUL = InputSpec(Features(F), state_names=("h", "c"), state_shape=(1, 1, 2))
LIMITS = Limits(max_sequence_steps=9, max_request_steps=99, empty_allowed=False)


@given(st.lists(st.lists(st.integers(1, 99), max_size=5), min_size=1, max_size=5))
def test_token_ids_arrive_as_they_were_sent(ids: list[list[int]]) -> None:
    """Ids come back in order, whatever their number and lengths, from either decoder."""
    plain = json.dumps({"sequences": ids}).encode()
    odd = json.dumps({"sequences": ids, "lengths": None, "model": None}).replace("null", " null").encode()
    for body in (plain, odd, plain.replace(b"[", b"[ ")):
        sequences = read(body, TOKENS)
        assert [one.tolist() for one in sequences.split()] == ids
        assert sequences.values.dtype == np.int64


def test_zeros_after_the_last_token_are_padding() -> None:
    """Padded ids need no lengths: their count without the zeros is the length."""
    sequences = read(b'{"sequences": [[5, 7, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4]]}', TOKENS)
    assert [one.tolist() for one in sequences.split()] == [[5, 7], [3], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ({"sequences": [[1], [2, 100]]}, errors.UnknownToken, r"sequences\[1\]\[1\] is the token id 100: .* 1 to 99"),
        ({"sequences": [[1, 0, 2]]}, errors.UnknownToken, r"sequences\[0\]\[1\] is the token id 0: .* 0 is padding"),
        ({"sequences": [[-1]]}, errors.UnknownToken, "is the token id -1"),
        ({"sequences": [[1.0]]}, errors.InvalidField, r"sequences\[0\]\[0\] is a number: expected a token id"),
        ({"sequences": [[True]]}, errors.InvalidField, r"sequences\[0\]\[0\] is true"),
        ({"sequences": [["a"]]}, errors.InvalidField, r"sequences\[0\]\[0\] is the string 'a'"),
        ({"sequences": [[[1]]]}, errors.InvalidField, r"sequences\[0\]\[0\] is a list of 1"),
        ({"sequences": [[10**30]]}, errors.InvalidField, "expected a token id"),
        ({"sequences": [1]}, errors.InvalidField, "a list of token ids"),
        ({"sequences": [[0, 0]]}, errors.EmptySequence, r"sequences\[0\] has no steps"),
        ({"sequences": [[1], [2]], "lengths": [1]}, errors.InvalidLengths, "1 entries for 2"),
        ({"texts": ["a"]}, errors.NotOffered, "texts asks for a tokenizer, and the model has none"),
        ({"sequences": [[1]], "state": {}}, errors.NotOffered, "starts every sequence from zero"),
        ({"sequences": [[1]], "outputs": []}, errors.InvalidField, "outputs is a list of 0"),
        ({"sequences": [[1]], "outputs": ["logits"]}, errors.InvalidField, r"outputs\[0\] is the string 'logits'"),
    ],
)
def test_bad_tokens_are_named(body: Any, error: type[errors.InvalidRequest], sentence: str) -> None:
    """What is not an id, or none of this vocabulary, is refused with its place."""
    with pytest.raises(error, match=sentence):
        read(json.dumps(body).encode(), TOKENS).check(LIMITS, TOKENS.kind.vocabulary)


def test_texts_are_read_and_not_tokenised() -> None:
    """A list of strings is left to the tokenizer; anything else is refused with its place."""
    spec = InputSpec(Tokens(4), tokenize=lambda _: pytest.fail("they were tokenised"))
    texts, _ = decode_whole(b'{"texts": ["hello world", ""]}', spec)
    assert texts == Texts(["hello world", ""])
    for body, error, sentence in (
        (b'{"texts": ["hello", 3]}', errors.InvalidField, r"texts\[1\] is a number: expected a string"),
        (b'{"texts": "hello"}', errors.InvalidField, "texts is the string 'hello': expected a list"),
        (b'{"texts": ["hello"], "sequences": [[1]]}', errors.InvalidField, "sequences is given beside texts"),
    ):
        with pytest.raises(error, match=sentence):
            decode_whole(body, spec)


def test_a_broken_tokenizer_blames_its_file() -> None:
    """What the library cannot read does not start a service."""
    with pytest.raises(errors.ArtifactError, match=r"made\.onnx cannot be served: its tokenizer cannot be read"):
        read_tokenizer("{}", "made.onnx")


def test_a_state_comes_with_its_sequences() -> None:
    """`h` and `c` of each sequence, in the shape the model has; all else is refused with its place."""
    body = {"sequences": [[[1, 2]], [[3, 4]]], "state": {"h": [[[[1, 2]]], [[[3, 4]]]], "c": [[[[5, 6]]], [[[7, 8]]]]}}
    sequences, _ = decode_whole(json.dumps(body).encode(), STATEFUL)
    assert sequences.state["h"].tolist() == [[[[1, 2]]], [[[3, 4]]]]
    assert sequences.state["c"].shape == (2, 1, 1, 2)
    rows = [[[[1, 2]]], [[[3, 4]]]]
    for state, error, sentence in (
        ({"h": rows}, errors.InvalidField, "state is an object: expected an object with h and c"),
        ([], errors.InvalidField, "state is a list of 0"),
        ({"h": rows, "c": rows[:1]}, errors.InvalidField, r"state\.c is a list of 1: expected a list of 2"),
        ({"h": rows, "c": [[[[1]]], [[[3]]]]}, errors.InvalidField, r"state\.c\[0\]\[0\]\[0\] is a list of 1"),
        ({"h": rows, "c": [[[[1, None]]], [[[3, 4]]]]}, errors.NotANumber, r"state\.c\[0\]\[0\]\[0\]\[1\] is null"),
        ({"h": rows, "c": [[[[1, 1e60]]], [[[3, 4]]]]}, errors.NonFiniteValue, r"state\.c\[0\]\[0\]\[0\]\[1\]"),
    ):
        with pytest.raises(error, match=sentence):
            decode_whole(json.dumps({**body, "state": state}).encode(), STATEFUL)


def test_steps_and_state_are_written_row_by_row() -> None:
    """Each sequence has its own steps, as long as it is, and its own state; base64 gives each as bytes."""
    steps = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    state = {"h": np.ones((2, 1, 1, 3), np.float32)}
    answer = Answer(np.zeros((2, 3), np.float32), steps, state, lengths=[2, 1], model="m", padded_steps=4)
    options = EncodeOptions(outputs=["steps", "state"])
    written = orjson.loads(ragged.write(answer, options)[0])
    assert written["steps"] == [[[1, 1, 1], [1, 1, 1]], [[0, 0, 0]]]
    assert written["state"] == {"h": [[[[1, 1, 1]]]] * 2}
    assert "embeddings" not in written
    options = EncodeOptions(outputs=["steps"], encoding_format="base64")
    written = orjson.loads(ragged.write(answer, options)[0])
    assert base64.b64decode(written["steps"][0]) == np.ones(6, "<f4").tobytes()


def test_rounding_is_the_same_whoever_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what overflows nor what underflows is an error, whatever NumPy was told to do where it was imported."""
    spec = spec_from_file_location("anew", plain.__file__)
    assert spec
    assert spec.loader
    anew = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "anew", anew)
    with np.errstate(all="raise"):
        spec.loader.exec_module(anew)
    np.testing.assert_array_equal(anew.to_float32(np.array([1e300, 1e-300])), [np.inf, 0.0])
