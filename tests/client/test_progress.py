"""`progress=True`: how far a large call is."""

import asyncio
import re
import sys
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from tests.conftest import draw_sequences
from tests.relay import Relay

SEQUENCES = draw_sequences([4] * 10)


@pytest.fixture
def relay(serve: Callable[..., TestClient]) -> Relay:
    """An app that takes two of the sequences in a request."""
    return Relay(serve(max_request_steps=8, max_sequence_steps=8, log_requests=False))


def test_progress_is_a_bar_of_tqdm(relay: Relay, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends at all sequences, and the embeddings are the same."""
    pytest.importorskip("tqdm")
    with relay.connect() as client:
        found = client.encode(SEQUENCES, progress=True)
        assert "10/10" in capsys.readouterr().err
        assert found.tobytes() == client.encode(SEQUENCES).tobytes()
    assert "/10" not in capsys.readouterr().err


def test_progress_without_tqdm_is_a_line(
    relay: Relay, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts each request's sequences once, by threads and by asyncio; it tells no sum that nobody knows."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with relay.connect() as client:
        client.encode(SEQUENCES, progress=True)
        line = "".join(f"\r{count} of 10 sequences encoded" for count in (2, 4, 6, 8, 10)) + "\n"
        assert capsys.readouterr().err == line
        client.encode(iter(SEQUENCES), progress=True)
        assert capsys.readouterr().err.endswith("\r10 sequences encoded\n")

    async def call() -> None:
        async with relay.connect_async() as client:
            await client.encode(SEQUENCES, progress=True)

    asyncio.run(call())
    assert re.findall(r"(\d+) of 10", capsys.readouterr().err) == ["2", "4", "6", "8", "10"]
