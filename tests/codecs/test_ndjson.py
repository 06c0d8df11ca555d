"""Lines of a stream: cut from any pieces, decoded together or one by one with the same result, written as JSON."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.json import ndjson
from service.codecs.json.ndjson import Line, LineSplitter
from service.encoder.sequences import Features, InputSpec, Tokens
from service.errors import (
    EmptySequence,
    FeatureMismatch,
    InvalidField,
    LengthwiseError,
    LineTooLong,
    MalformedJson,
    NonFiniteValue,
    NotANumber,
    SequenceTooLong,
    UnknownToken,
)
from service.settings import Limits
from tests.memory import run_within

SPEC = InputSpec(Features(2))
TOKENS = InputSpec(Tokens(100))
LIMITS = Limits(max_sequence_steps=5, max_request_steps=8, empty_allowed=False)


def cut(pieces: list[bytes], limit: int = 1000) -> list[Line]:
    """Cut a body in pieces into lines."""
    splitter = LineSplitter(limit)
    return [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.finish())


def decode(texts: list[bytes], spec: InputSpec = SPEC) -> list[Any]:
    """Decode lines; sequences as lists, errors as they are."""
    lines = [Line(row + 1, row, text) for row, text in enumerate(texts)]
    found = ndjson.decode(lines, spec, LIMITS, 1000)
    return [one if isinstance(one, str | LengthwiseError) else one.tolist() for one in found]


@given(texts=st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"")), max_size=6), data=st.data())
def test_lines_are_the_same_however_a_body_is_cut(texts: list[bytes], data: st.DataObject) -> None:
    """Pieces may end anywhere; blank lines are counted and left out, and the last line needs no end."""
    body = b"\n".join(texts)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
    kept = [(number, text.strip()) for number, text in enumerate(texts, 1) if text.strip()]
    assert cut(pieces) == [Line(number, row, text) for row, (number, text) in enumerate(kept)]


def test_a_long_line_is_dropped_as_it_comes() -> None:
    """It becomes a line without text, the next is whole again, and no more than the limit is held."""
    assert cut([b"ab\nabcde", b"f\nabcd", b"\nx"], limit=4) == [
        Line(1, 0, b"ab"),
        Line(2, 1, None),
        Line(3, 2, b"abcd"),
        Line(4, 3, b"x"),
    ]

    def feed() -> list[Line]:
        splitter = LineSplitter(2**20)
        for _ in range(64):
            assert list(splitter.feed(bytes(2**20))) == []
        return list(splitter.finish())

    assert run_within(5 * 2**20, feed) == [Line(1, 0, None)]


def test_each_bad_line_has_its_own_error() -> None:
    """What is wrong with one line is said of it alone, with the place in it; the others are decoded."""
    texts = [
        b"[[1,2],[3,4]]",
        b"oops",
        b"[[1,2,3]]",
        b"[]",
        b'[[1,"x"]]',
        b"[[1,2],[1,1e39]]",
        b'{"sequences":[[[1,2]]]}',
        b"[[1,2],[1,2],[1,2],[1,2],[1,2],[1,2]]",
        b'"text"',
        b"[[5,6]]",
    ]
    found = decode(texts)
    assert (found[0], found[-1]) == ([[1, 2], [3, 4]], [[5, 6]])
    assert list(map(type, found[1:-1])) == [
        MalformedJson,
        FeatureMismatch,
        EmptySequence,
        NotANumber,
        NonFiniteValue,
        InvalidField,
        SequenceTooLong,
        InvalidField,
    ]
    paths = [error.path for error in found[2:-1]]
    assert paths == [
        "sequences[0][0]",
        "sequences[0]",
        "sequences[0][0][1]",
        "sequences[0][1][1]",
        "sequences[0]",
        "sequences[0]",
        "sequences[0]",
    ]
    assert type(ndjson.decode([Line(1, 0, None)], SPEC, LIMITS, 1000)[0]) is LineTooLong


# Pairs that together would be two sequences, though neither line is one.
TRICKS = [
    (b"[[1", b"2]],[[4,5]]"),
    (b"[[1,2", b"3]],[[4,5]]"),
    (b"[[1,2]", b"[3,4]],[[5,6]]"),
    (b"[[1,2]],[[3,4]]", b""),
    (b"[[1,2]],[[3,4]", b"[5,6]]"),
    (b"[[1,2]]]}", b'{"sequences":[[[1,2]]'),
    (b'[[1,2]]],"sequences":[[[3,4]]', b"[[5,6]]"),
    (b'[[1,2]]],"normalize":[true', b"[[5,6]]"),
    (b"[[1,2]", b"]"),
    (b"[[1,2]] ", b"[3,4]"),
]


@pytest.mark.parametrize("pair", TRICKS)
def test_no_line_lends_brackets_to_another(pair: tuple[bytes, bytes]) -> None:
    """Lines that are not sequences are refused each, whatever they would be when joined."""
    for found, text in zip(decode(list(pair)), pair, strict=True):
        try:
            is_sequence = all(len(step) == 2 for step in json.loads(text))
        except (TypeError, ValueError):
            is_sequence = False
        assert isinstance(found, list) == is_sequence, (text, found)


ODD = st.sampled_from(["[", "]", ",", "[[1,2]]", "[1,2]", "1", "5", " ", '"', "{", "[]", "[[3,4],[5,6]]"])


@given(texts=st.lists(st.lists(ODD, min_size=1, max_size=5).map("".join), min_size=1, max_size=4), ids=st.booleans())
def test_lines_decoded_together_are_those_decoded_alone(texts: list[str], ids: bool) -> None:  # noqa: FBT001
    """What lines give in one go is what each gives by itself, for any mixture of brackets and numbers."""
    spec = TOKENS if ids else SPEC
    lines = [text.strip().encode() for text in texts]
    together = decode(lines, spec)
    alone = [decode([line], spec)[0] for line in lines]
    for one, other in zip(together, alone, strict=True):
        assert one == other or (type(one) is type(other) and str(one) == str(other))


def test_token_lines_drop_padding_and_name_unknown_ids() -> None:
    """Zeros at the end of a line are padding, as in JSON; ids beyond the vocabulary are errors of their lines."""
    found = decode([b"[5,7,0,0]", b"[100]", b"[3]"], TOKENS)
    assert (found[0], type(found[1]), found[2]) == ([5, 7], UnknownToken, [3])
    assert decode([b"[5,7,0,0]", b"[3]"], TOKENS) == [[5, 7], [3]]


def test_text_lines_are_left_to_the_tokenizer() -> None:
    """A model that reads texts takes strings, which are bounded before they are tokenised, and ids as well."""
    spec = InputSpec(Tokens(100), lambda _: pytest.fail("it was tokenised"))
    lines = [Line(1, 0, b'"a bcd"'), Line(2, 1, b"[7]"), Line(3, 2, b'"' + 10 * b"a" + b'"')]
    limits = Limits(max_sequence_steps=5, max_request_steps=8, empty_allowed=False, max_text_characters=9)
    text, ids, refused = ndjson.decode(lines, spec, limits, 1000)
    assert (text, list(ids)) == ("a bcd", [7])  # type: ignore[arg-type]
    assert str(refused) == "sequences[0] has 10 characters: the limit is 9, set by `max_text_characters`."


def test_what_is_written_is_a_line_of_json() -> None:
    """An embedding comes as the shortest decimals that are its float32, or as base64 of its bytes."""
    row = np.array([0.1, -3e-9], np.float32)
    assert ndjson.write_embedding(7, row, "float") == b'{"index":7,"embedding":[0.1,-3e-9]}\n'
    coded = json.loads(ndjson.write_embedding(7, row, "base64"))
    assert base64.b64decode(coded["embedding"]) == row.tobytes()
    assert ndjson.write_problem({"status": 422}, 3) == b'{"index":3,"problem":{"status":422}}\n'
    assert ndjson.write_problem({"status": 503}) == b'{"problem":{"status":503}}\n'
