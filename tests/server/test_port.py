"""The port that several workers share."""

import socket
from contextlib import ExitStack

import pytest

from service.server.port import Port
from service.server.rpc.reserving import reserve_port
from service.settings import Settings

ADDRESSES = ("127.0.0.1", "127.0.0.2")


@pytest.fixture(autouse=True)
def _several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host have several addresses, as `localhost` has if there is IPv6."""

    def look_up(_: str, port: int, **__: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in ADDRESSES]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_a_free_port_is_the_same_at_each_address() -> None:
    """A client finds the service by any address of its host."""
    with ExitStack() as opened:
        listeners = [opened.enter_context(one) for one in Port(Settings(port=0)).listeners]
        assert [one.getsockname()[0] for one in listeners] == [*ADDRESSES]
        assert len({one.getsockname()[1] for one in listeners}) == 1
    kept, port = reserve_port(Settings(grpc_port=0))
    with kept, socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind((ADDRESSES[1], port))
