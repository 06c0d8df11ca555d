"""Compressed bodies: what they hold, and never more of it than a body may be."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.codecs.compression import decompress
from service.errors import BodyTooLarge, MalformedBody
from tests.api.test_encode import PAIR
from tests.memory import run_within

BODY = json.dumps({"sequences": PAIR}).encode()
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def post(client: TestClient, body: bytes, encoding: str) -> Any:
    """Post a body as it is, with its `Content-Encoding`."""
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    return client.post("/encode", content=body, headers=headers)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "identity"])
def test_a_compressed_body_is_answered_as_a_plain_one(encoding: str, client: TestClient) -> None:
    """The embeddings are those of the same body sent plain."""
    compress = COMPRESSORS.get(encoding.lower(), bytes)
    plain = client.post("/encode", content=BODY).json()["embeddings"]
    assert post(client, compress(BODY), encoding).json()["embeddings"] == plain


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_a_bomb_is_refused_in_bounded_memory(encoding: str) -> None:
    """100 MB of zeros in 100 kB are refused by the limit, with no more than about that held at once."""
    bomb, limit = COMPRESSORS[encoding](bytes(100 * 2**20)), 2**20

    def refuse() -> None:
        with pytest.raises(BodyTooLarge, match=f"{limit} bytes"):
            decompress(bomb, encoding, limit)

    run_within(4 * limit, refuse)


def test_a_bomb_over_http_is_413(client: TestClient) -> None:
    """The limit of a body holds for what it opens to, and its setting is named."""
    problem = post(client, gzip.compress(bytes(2**26)), "gzip").json()
    assert (problem["status"], problem["setting"]) == (413, "LENGTHWISE_MAX_BODY_BYTES")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(BODY)[:-9], "it ends early"),
        (gzip.compress(BODY) + b"more", "4 bytes follow its end"),
        (b"plain text", "incorrect header check"),
    ],
)
def test_what_is_not_compressed_as_it_says_is_refused(body: bytes, reason: str, client: TestClient) -> None:
    """A body that is cut, goes on, or is not gzip at all is 422, with the reason."""
    with pytest.raises(MalformedBody, match=reason):
        decompress(body, "gzip", 10_000)
    problem = post(client, body, "gzip").json()
    assert (problem["status"], problem["type"]) == (422, "urn:lengthwise:problem:malformed-body")


def test_an_unknown_encoding_is_415(client: TestClient) -> None:
    """What cannot be opened is not guessed at."""
    response = post(client, BODY, "br")
    assert response.status_code == 415
    assert response.json()["detail"] == "The body is br: expected gzip, deflate or identity."
    assert response.json()["path"] == "Content-Encoding"
