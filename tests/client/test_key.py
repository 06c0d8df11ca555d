"""What a client is told once: the model that its calls mean, and the key that the service asks for."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lengthwise_client import AsyncClient, Client, Refused
from service.app import create_app
from service.settings import Settings
from tests.api.test_keys import FIRST, SECOND, bearing
from tests.conftest import draw_sequences
from tests.listening import listen
from tests.made import take

KINDS = ["threads", "asyncio"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of two models, that asks for keys."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in (("wide", "quintuples"), ("narrow", "pairs")):
        take(kind, folder / f"{name}.onnx", name=name)
    with listen(create_app(Settings(models=folder, api_keys=FIRST, admin_key=SECOND))) as address:
        yield f"http://{address}"


def call(kind: str, url: str, features: int, asked: str | None = None, **options: Any) -> dict[str, int]:
    """Encode in every way there is with a client of threads or of asyncio; return the width of what each gave."""
    sequences = draw_sequences([3, 1], features)
    if kind == "threads":
        with Client(url, **options) as client:
            return {
                "encode": client.encode(sequences, model=asked).shape[1],
                "outputs": client.encode_outputs(sequences, ["embedding"], model=asked).embeddings.shape[1],
                "stream": np.stack([*client.encode_stream(sequences, model=asked)]).shape[1],
            }

    async def run() -> dict[str, int]:
        async with AsyncClient(url, **options) as client:
            return {
                "encode": (await client.encode(sequences, model=asked)).shape[1],
                "outputs": (await client.encode_outputs(sequences, ["embedding"], model=asked)).embeddings.shape[1],
                "stream": np.stack([row async for row in client.encode_stream(sequences, model=asked)]).shape[1],
            }

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_a_client_says_once_which_model_and_which_key(kind: str, key: str, url: str) -> None:
    """Every call means the client's model unless it names one; a caller's key will do, and so will the admin's."""
    every = ("encode", "outputs", "stream")
    assert call(kind, url, 5, model="wide", key=key) == dict.fromkeys(every, 10)
    assert call(kind, url, 2, asked="narrow", model="wide", key=key) == dict.fromkeys(every, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_without_the_right_key_is_refused(kind: str, url: str) -> None:
    """No key and an unknown one are 401."""
    for options in ({}, {"key": "another-key-for-tests"}):
        with pytest.raises(Refused) as caught:
            call(kind, url, 5, model="wide", **options)
        assert caught.value.problem.status == 401


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_and_the_header_of_one_are_not_both_taken(kind: type[Client | AsyncClient], url: str) -> None:
    """Which of them is meant cannot be known; other headers stay beside a key."""
    with pytest.raises(ValueError, match="key and the header Authorization"):
        kind(url, key=FIRST, headers=bearing(SECOND))
    assert call("threads", url, 5, model="wide", key=FIRST, headers={"X-Other": "1"})["encode"] == 10
    assert call("asyncio", url, 5, model="wide", headers=bearing(FIRST))["encode"] == 10
