"""What the routes share: the loaded service, bodies within bounds, and routes without FastAPI's own path."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.engine import Engine
from service.errors import BodyTooLarge, UnsupportedMediaType
from service.sequences import InputSpec
from service.session import EncoderSession
from service.settings import Settings


@dataclass(slots=True)
class Service:
    """What `create_app` loads and the routes use.

    Attributes:
        golden_difference: largest difference in the replay of the golden vectors; None where there were none.
        engine: there while the app's lifespan lasts, and its threads with it.
        spec: what the model reads.
        is_draining: set on SIGTERM; new requests are refused from then on.
    """

    settings: Settings
    session: EncoderSession
    golden_difference: float | None
    spec: InputSpec
    engine: Engine = field(init=False)
    is_draining: bool = False

    @property
    def model_name(self) -> str:
        """The name the model is served under."""
        manifest = self.session.manifest
        return manifest.name if manifest else self.settings.model.stem


class DirectRoute(APIRoute):
    """A route FastAPI documents but does not run: its endpoint takes the request and returns the response."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the endpoint itself."""
        return cast("Callable[[Request], Awaitable[Response]]", self.endpoint)


def service_of(request: Request) -> Service:
    """Return the service behind the app that got the request."""
    return cast("Service", request.app.state.service)


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        BodyTooLarge: at once where the length is declared, else as soon as it is met.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def require_media_type(request: Request, supported: str) -> None:
    """Refuse a body of another kind; one that does not say is taken at its route's word.

    Raises:
        UnsupportedMediaType: carries what was found.
    """
    found = request.headers.get("content-type", supported).partition(";")[0].strip().lower()
    if found != supported:
        raise UnsupportedMediaType(found, supported)
