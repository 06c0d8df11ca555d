"""The Open Inference Protocol over gRPC: its calls as routes, whose bodies are the protocol's messages.

What carries them is `service.server.rpc`. Here a call is a request as any other: let in, counted, encoded and refused
by what all share.
"""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from service import __version__, errors
from service.api import encoding
from service.api.endpoints import kserve
from service.api.endpoints.repository import MAX_BODY_BYTES, list_artifacts, load_in_all, unload_in_all
from service.api.routing import Access, Endpoint, Route, read_body, service_of
from service.catalogue.models import ServedModel
from service.codecs.kserve import messages
from service.codecs.question import Question

LIMITS = ("max_request_steps", "max_queue_steps", "max_body_bytes")  # what a client cuts its requests by


async def live(request: Request) -> ASGIApp:
    """Answer while the event loop turns, and runs end if requests wait."""
    service_of(request).require_progress()
    return _answer("ServerLiveResponse", live=True)


async def ready(request: Request) -> ASGIApp:
    """Answer until the service drains."""
    service_of(request).require_ready()
    return _answer("ServerReadyResponse", ready=True)


async def describe_server(_request: Request) -> ASGIApp:
    """Name the service and its extensions of the protocol."""
    return _answer("ServerMetadataResponse", name="lengthwise", version=__version__, extensions=["model_repository"])


async def describe_model(request: Request) -> ASGIApp:
    """Describe the encoder's tensors as its graph has them."""
    asked = await _read("ModelMetadataRequest", request)
    model = _find_model(request, asked.name, asked.version)
    settings = service_of(request).settings
    properties = {name: str(getattr(settings, name)) for name in LIMITS} | {"sha256": model.session.sha256}
    return _answer("ModelMetadataResponse", **kserve.describe(request, model), properties=properties)


async def is_model_ready(request: Request) -> ASGIApp:
    """Answer until the service drains."""
    asked = await _read("ModelReadyRequest", request)
    _find_model(request, asked.name, asked.version)
    if service_of(request).is_draining:
        raise errors.Draining
    return _answer("ModelReadyResponse", ready=True)


async def infer(request: Request) -> ASGIApp:
    """Encode the sequences in the request's tensors, as `/encode` does."""

    def parse(body: bytes) -> Question:
        asked = messages.decode("ModelInferRequest", body, service_of(request).settings.max_request_steps)
        model = _find_model(request, asked.model_name, asked.model_version)
        return replace(messages.parse(asked, kserve.sign(request, model)), model=model.full_name)

    return await encoding.answer(request, parse)


async def list_states(request: Request) -> ASGIApp:
    """List every artifact, and why it is not served, if it is not."""
    asked = await _read("RepositoryIndexRequest", request)
    states = await list_artifacts(service_of(request), ready=asked.ready)
    return _answer("RepositoryIndexResponse", models=states)


async def load(request: Request) -> ASGIApp:
    """Answer once all workers serve the model as its file has it."""
    name = _name_artifact(await _read("RepositoryModelLoadRequest", request))
    await load_in_all(service_of(request), name)
    return _answer("RepositoryModelLoadResponse", model_name=name, isLoaded=True)


async def unload(request: Request) -> ASGIApp:
    """Answer once the model takes no more requests in any worker; those under way are answered by it."""
    name = _name_artifact(await _read("RepositoryModelUnloadRequest", request))
    await unload_in_all(service_of(request), name)
    return _answer("RepositoryModelUnloadResponse", model_name=name, isUnloaded=True)


async def _read(kind: str, request: Request) -> Any:
    settings = service_of(request).settings
    body = await read_body(request, min(MAX_BODY_BYTES, settings.max_body_bytes), settings.body_timeout_seconds)
    return messages.decode(kind, body)


def _answer(kind: str, /, **fields: Any) -> ASGIApp:
    return encoding.respond(messages.message(kind, **fields).SerializeToString(), messages.HEADERS)


def _find_model(request: Request, name: str, version: str) -> ServedModel:
    """Find the model that a message names; as elsewhere, none is meant by no name if there is only one."""
    return encoding.find_model(request, f"{name}@{version}" if version else name or None)


def _name_artifact(asked: Any) -> str:
    """Return the model that is to be loaded or unloaded: KServe's clients have it in the repository's place.

    Raises:
        InvalidField: something is asked for that would change what is loaded.
    """
    for name in asked.parameters:
        if name != "unload_dependents":
            raise errors.InvalidField(f"parameters.{name[:40]}", "given", "unload_dependents alone")
    return str(asked.model_name or asked.repository_name)


def _route(call: str, endpoint: Endpoint, *, access: Access = "key", is_probe: bool = False) -> Route:
    return Route("POST", f"/{messages.SERVICE}/{call}", endpoint, access=access, is_probe=is_probe)


ROUTES = [
    _route("ServerLive", live, access="open", is_probe=True),
    _route("ServerReady", ready, access="open", is_probe=True),
    _route("ServerMetadata", describe_server),
    _route("ModelMetadata", describe_model),
    _route("ModelReady", is_model_ready),
    _route("ModelInfer", infer),
    _route("ModelStreamInfer", infer),  # each message of a stream is a request
    _route("RepositoryIndex", list_states),
    _route("RepositoryModelLoad", load, access="admin"),
    _route("RepositoryModelUnload", unload, access="admin"),
]
