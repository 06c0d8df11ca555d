"""The port of the service, which several workers share."""

import errno
import os
import socket
from contextlib import ExitStack

import pytest

from service.errors import StartupError
from service.server import port as ports
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


@pytest.mark.parametrize("fault", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_serves_by_its_other_addresses(fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is looked up as both there; a host that has no other address is refused, and so is a taken port."""

    def lack(family: int, kind: int, address: tuple[str, int]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(fault, os.strerror(fault))
        return bind(family, kind, address)

    bind = ports._bind
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]
    lacking = [(socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 0, 0, 0))]
    monkeypatch.setattr(ports, "_bind", lack)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*lacking, *found])
    (listener,) = Port(Settings(port=0)).listeners
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        listener.listen()
        with pytest.raises(StartupError, match="Address already in use"):
            Port(Settings(port=listener.getsockname()[1]))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: lacking)
    with pytest.raises(StartupError, match=os.strerror(fault)):
        Port(Settings(port=0))


def test_an_address_that_is_found_twice_is_listened_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of hosts may have two lines for one name; the second listener would find the port taken."""
    found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found, found])
    listeners = Port(Settings(port=0)).take()
    with ExitStack() as opened:
        for one in listeners:
            opened.enter_context(one)
        assert len(listeners) == 1
