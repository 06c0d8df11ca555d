"""The port of the service: bound, listened on, and closed by several workers once nobody waits there any more."""

import errno
import logging
import selectors
import socket
from collections.abc import Callable, Container
from contextlib import ExitStack
from typing import Any

from service.errors import StartupError
from service.settings import Settings

logger = logging.getLogger("lengthwise")

NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # what the kernel says of its addresses if it is switched off
WAITING = 2**11  # connections that the kernel keeps until they are accepted


class Port:
    """Where the service listens, at each address of its host.

    Attributes:
        is_listening: whether connections are accepted.
        listeners: those that are not closed yet.
    """

    def __init__(self, settings: Settings) -> None:
        """Bind it, without listening yet.

        Raises:
            StartupError: the address cannot be listened on.
        """
        self._settings = settings
        self.is_listening = False
        try:
            self.listeners = bind_port(settings.host, settings.port)
        except OSError as error:
            raise self._cannot_listen(error) from error

    def listen(self, selector: selectors.BaseSelector, accept: Callable[[socket.socket], None], number: int) -> None:
        """Listen, and call a function with a listener whenever a connection waits at it.

        Args:
            selector: what says so.
            accept: that function.
            number: how many workers there are, for the log.

        Raises:
            StartupError: others listen there.
        """
        for listener in self.take():
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ, accept)
            host, port, *_ = listener.getsockname()
            scheme = "https" if self._settings.ssl_certfile else "http"
            named = f"[{host}]" if ":" in host else host
            logger.info("%d workers running on %s://%s:%d (Press CTRL+C to quit)", number, scheme, named, port)
        self.is_listening = True

    def take(self) -> list[socket.socket]:
        """Listen, and return the listeners, for whoever accepts connections there.

        Raises:
            StartupError: others listen there.
        """
        try:
            for listener in self.listeners:
                listener.listen(WAITING)
        except OSError as error:
            raise self._cannot_listen(error) from error
        return self.listeners

    def close(self, selector: selectors.BaseSelector, asked: Container[object] = ()) -> None:
        """Close the listeners but those at which somebody waits: the kernel resets connections that wait at others."""
        for listener in [one for one in self.listeners if one not in asked]:
            if self.is_listening:
                selector.unregister(listener)
            listener.close()
            self.listeners.remove(listener)

    def _cannot_listen(self, error: OSError) -> StartupError:
        return StartupError(f"{self._settings.host}:{self._settings.port} cannot be listened on: {error.strerror}.")


def bind_port(host: str, port: int) -> list[socket.socket]:
    """Bind a port at each address of a host, without listening on it; for 0 a free one, the same at all of them.

    An address of IPv6 is passed over if this machine has none, as long as another one is left: `localhost` is often
    looked up as both.

    Raises:
        OSError: it cannot be bound; nothing is left bound then.
    """
    with ExitStack() as opened:
        bound: list[socket.socket] = []
        lacking: OSError | None = None
        # An address may be found twice, as in a file of hosts with two lines for one name.
        for family, kind, *_, address in dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
            try:
                bound.append(opened.enter_context(_bind(family, kind, (address[0], port, *address[2:]))))
            except OSError as error:
                if family != socket.AF_INET6 or error.errno not in NO_IPV6:
                    raise
                lacking = error
            else:
                port = bound[-1].getsockname()[1]
        if lacking and not bound:
            raise lacking
        opened.pop_all()
        return bound


def _bind(family: int, kind: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        OSError: it cannot be bound.
    """
    one = socket.socket(family, kind)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one
