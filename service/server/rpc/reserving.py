"""Keeps the port of gRPC for the workers of one service: each of them listens on it, and nobody else may."""

import socket
from contextlib import ExitStack

from service.errors import StartupError
from service.server.port import bind_port
from service.settings import Settings


def reserve_port(settings: Settings) -> tuple[ExitStack, int]:
    """Bind the port of gRPC without listening on it.

    Workers share a port by `SO_REUSEPORT`, by which another service of the same user could share it, too: calls would
    go to either. So it is bound alone at first, and shared afterwards.

    Args:
        settings: the service's settings, `grpc_port` among them.

    Returns:
        What keeps the port until it is closed, and the port, a free one for 0.

    Raises:
        StartupError: others listen there.
    """
    port, kept = settings.grpc_port or 0, ExitStack()
    try:
        for one in bind_port(settings.host, port):
            kept.enter_context(one).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = one.getsockname()[1]
    except OSError as error:
        sentence = f"{settings.host}:{port} cannot be listened on for gRPC: {error.strerror}."
        raise StartupError(sentence) from error
    return kept, port
