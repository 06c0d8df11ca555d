"""The port of gRPC: a server in the service's own event loop, with the service's limits, TLS, health and end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.api.crowd import SPARE
from service.api.endpoints import rpc
from service.api.front import Front
from service.api.routing import Service
from service.api.unread import Reader
from service.codecs.kserve import messages
from service.errors import BodyTooSlow, InvalidKey, LengthwiseError, StartupError, TooManyCalls
from service.server.rpc.carrying import Call, Metadata, Reply, Unseen, carry, make_headers
from service.server.rpc.failing import Failure, read_failure
from service.server.rpc.streaming import Shared, Stream
from service.settings import Settings

logger = logging.getLogger("lengthwise")

LOOK_SECONDS = 1.0  # between two looks whether the service is ready
HANDSHAKE_SECONDS = 20  # until a connection must speak HTTP/2
LAST_SECONDS = 0.5  # for those who watch the service's health, once all calls are answered
PING_SECONDS = 60  # an idle connection is asked so often whether it is there, and may ask as often itself
MOST_PENDING = 2**31 - 1  # calls that wait to be looked at; of more than 1000 gRPC cancels some without a reason
STREAM = "ModelStreamInfer"


class Listener:
    """Answers calls until the service ends."""

    def __init__(self, service: Service, fallback: Any) -> None:
        """Prepare to answer by the routes of `service.api.endpoints.rpc`."""
        settings = self._settings = service.settings
        routes = [route for route in rpc.ROUTES if route.access != "admin" or service.admin_keys]
        self._service, self._app = service, Front(service, routes, fallback)
        self._calls: set[asyncio.Task[Any]] = set()  # until their answers are sent
        self._shared = Shared(service.unread_calls, settings.max_body_bytes)
        most = settings.connections + SPARE
        self._server = grpc.aio.server(options=_choose_options(settings), maximum_concurrent_rpcs=most)
        handlers = {route.path.rpartition("/")[2]: self._handle(route.path) for route in routes}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(messages.SERVICE, handlers)])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (messages.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_describe())

    async def start(self) -> int:
        """Listen.

        Returns:
            The port.

        Raises:
            StartupError: the address cannot be listened on, or its certificate cannot be used.
        """
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if settings.ssl_certfile:
                certificate = settings.ssl_certfile.read_bytes()
                key = (settings.ssl_keyfile or settings.ssl_certfile).read_bytes()
                port: int = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
            else:
                port = self._server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            raise StartupError(f"{address} cannot be listened on for gRPC: {str(error).partition(';')[0]}.") from None
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())
        logger.info("gRPC on %s:%d", host, port)
        return port

    async def stop(self) -> None:
        """Take no more calls, answer those under way, and end.

        Streams end once their messages are answered. What watches the service's health would never end by itself.
        """
        self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        ending = asyncio.create_task(self._server.stop(self._settings.drain_seconds))
        self._shared.is_over.set()
        while self._calls:
            await asyncio.wait(self._calls)
        await self._server.stop(LAST_SECONDS)
        await ending

    async def _watch(self) -> None:
        """Keep what the health protocol says as it is."""
        while True:
            try:
                self._service.require_ready()
                state = health_pb2.HealthCheckResponse.SERVING
            except LengthwiseError:
                state = health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", messages.SERVICE):
                await self._health.set(name, state)
            await asyncio.sleep(LOOK_SECONDS)

    def _handle(self, path: str) -> grpc.RpcMethodHandler:
        """Return what answers a method. Messages stay bytes: the codec reads them, within its limits.

        A call with one message is taken as a stream of one, so that the message is not read before the call is let in.
        """
        if path.endswith(f"/{STREAM}"):
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, path))
        return grpc.stream_unary_rpc_method_handler(partial(self._answer, path))

    async def _answer(self, path: str, _asked: AsyncIterator[bytes], context: Any) -> bytes:
        reader, metadata = Reader(self._shared.unread, Unseen()), context.invocation_metadata() or ()
        call = Call(path, metadata, context.time_remaining(), reader, self._enter(lambda _: reader.leave()))
        reply = await carry(self._app, call, partial(self._read, context))
        if reply.status != 200:
            await _abort(context, read_failure(reply))
        context.set_trailing_metadata(tuple(reply.metadata))
        return reply.body

    async def _stream(self, path: str, asked: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        metadata = tuple(pair for pair in context.invocation_metadata() or () if pair[0] != "x-request-id")
        crowded = self._enter()

        async def ask(body: bytes, reader: Reader) -> Reply:
            async def read() -> bytes:
                return body

            return await carry(self._app, Call(path, metadata, context.time_remaining(), reader, crowded), read)

        if crowded or not self._knows(metadata):  # before a message comes, or none ever would
            await _abort(context, read_failure(await ask(b"", Reader(self._shared.unread, Unseen()))))
        stream = Stream(asked, ask, self._shared)
        async with aclosing(stream.answer()) as answers:
            async for answer in answers:
                yield answer
        if stream.failure:
            await _abort(context, stream.failure)

    def _knows(self, metadata: Metadata) -> bool:
        """Whether a call brings a key that lets requests in, if they need one."""
        keys = self._service.keys
        try:
            return keys is None or bool(keys.recognize(make_headers(metadata)))
        except InvalidKey:
            return False

    def _enter(self, on_end: Callable[[Any], None] = lambda _: None) -> LengthwiseError | None:
        """Count a call until its answer is sent.

        Args:
            on_end: is called then.

        Returns:
            Why only probes are answered, if they are.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(on_end)
        limit = self._settings.connections
        return TooManyCalls(limit) if len(self._calls) > limit else None

    async def _read(self, context: Any) -> bytes | None:
        """Read the message of a call; None if there is none.

        Raises:
            BodyTooSlow: it did not come in time.
        """
        seconds = self._settings.body_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                body = await context.read()
        except TimeoutError:
            raise BodyTooSlow(seconds) from None
        return None if body is grpc.aio.EOF else bytes(body)


async def _abort(context: Any, failure: Failure) -> None:
    """End a call with a failure, if its caller is still there.

    Raises:
        AbortError: of gRPC, which ends the call.
        asyncio.CancelledError: the call is over.
    """
    try:
        await context.abort(failure.code, failure.sentence, failure.metadata)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _choose_options(settings: Settings) -> list[tuple[str, int]]:
    """Return the options of gRPC's core, by the service's settings."""
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.connections),
        ("grpc.max_allowed_incoming_connections", settings.connections),
        ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_SECONDS),
        ("grpc.http2.bdp_probe", 0),  # it lets a caller send megabytes of a message that nobody reads
        ("grpc.server.max_pending_requests", MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
        ("grpc.max_connection_idle_ms", 1000 * settings.keep_alive_seconds),
        ("grpc.keepalive_time_ms", 1000 * PING_SECONDS),
        ("grpc.keepalive_timeout_ms", 1000 * settings.keep_alive_seconds),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000 * PING_SECONDS // 6),
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


def _describe() -> DescriptorPool:
    """Return a pool of all that reflection tells of: the protocol, and the services beside it."""
    pool = DescriptorPool()
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR, messages.POOL.FindFileByName(messages.FILE)):
        described = FileDescriptorProto()
        file.CopyToProto(described)
        pool.Add(described)
    return pool
