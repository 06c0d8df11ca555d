"""Triton's extension of the protocol for models that come and go: what there is, load, unload."""

from contextlib import suppress
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, RootModel
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api import fellows, problems
from service.api.routing import Route, Service, read_body, service_of
from service.catalogue.repository import UNLOADED
from service.codecs.json import exact
from service.codecs.options import validate
from service.errors import LengthwiseError

PATH = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
MAX_BODY_BYTES = 2**16
CHANGE_SECONDS = 30.0  # that other workers have to follow a change, before the answer says which have not


class IndexRequest(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ready: bool = False


class ModelState(BaseModel):
    """An artifact, and whether it is served."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class ModelStates(RootModel[list[ModelState]]):
    """All artifacts there are."""


class Parameters(BaseModel):
    """What Triton's clients send along; there are no dependents. Others, as `config`, would change what is loaded."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unload_dependents: bool = False


class ChangeRequest(BaseModel):
    """How to load or unload."""

    model_config = ConfigDict(extra="ignore", strict=True)

    parameters: Parameters = Parameters()


class Done(BaseModel):
    """It is done."""


FAILURES = (
    errors.MalformedJson,
    errors.InvalidField,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.UnknownModel,
    errors.WorkersBehind,
)


def _document(schema: type[BaseModel], *parameters: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"parameters": list(parameters), "requestBody": {"required": False, "content": content}}


async def list_states(request: Request) -> Response:
    """List every artifact, and why it is not served, if it is not; of a newer version that is refused, too."""
    wanted = validate(IndexRequest, await _read_fields(request), IndexRequest.model_fields)
    states = await list_artifacts(service_of(request), ready=wanted.ready)
    return Response(orjson.dumps(states), media_type="application/json")


async def list_artifacts(service: Service, *, ready: bool) -> list[dict[str, Any]]:
    """List the artifacts, or those of them that all workers serve."""
    states = await tell_states(service)
    for number, told in (await fellows.ask_others(service.worker, "states")).items():
        _join(states, number, told)
    return [ModelState(**state).model_dump() for state in states.values() if _is_ready(state) or not ready]


async def tell_states(service: Service, _given: Any = None) -> dict[str, dict[str, Any]]:
    """Tell what became of each artifact in this worker, by its file."""
    return {
        one.file: {
            "name": one.name,
            "version": one.version,
            "state": "READY" if one.ready else "UNAVAILABLE",
            "reason": one.reason,
        }
        for one in service.repository.index()
    }


def _join(states: dict[str, dict[str, Any]], number: int, told: dict[str, dict[str, Any]] | None) -> None:
    """Take in what another worker tells; what is served is served by all."""
    for file, state in states.items():
        other = (told or {}).get(file)
        if told is None:
            state["reason"] = state["reason"] or f"worker {number} does not answer"
        elif other != state and _is_ready(state):
            here = other["reason"] or f"it serves {other['version']}" if other else "it does not know the file"
            state.update(state=other["state"] if other else "UNAVAILABLE", reason=f"worker {number}: {here}")


def _is_ready(state: dict[str, Any]) -> bool:
    return bool(state["state"] == "READY")


async def load(request: Request) -> Response:
    """Answer once all workers serve the model as its file has it; if it is refused, what was served before still is."""
    validate(ChangeRequest, await _read_fields(request), ChangeRequest.model_fields)
    await load_in_all(service_of(request), request.path_params["model"])
    return Response(b"{}", media_type="application/json")


async def unload(request: Request) -> Response:
    """Answer once the model takes no more requests in any worker; those under way are answered by it."""
    validate(ChangeRequest, await _read_fields(request), ChangeRequest.model_fields)
    await unload_in_all(service_of(request), request.path_params["model"])
    return Response(b"{}", media_type="application/json")


async def load_in_all(service: Service, name: str) -> None:
    """Load a model in every worker, here first: what is refused here is asked of nobody else."""
    await service.repository.load(name)
    await _have_others(service, "load", name)


async def unload_in_all(service: Service, name: str) -> None:
    """Unload a model in every worker."""
    await service.repository.unload(name)
    await _have_others(service, "unload", name)


async def _have_others(service: Service, change: str, name: str) -> None:
    """Have all other workers make a change that this one has made.

    Raises:
        WorkersBehind: some have not; says which, and why.
    """
    told = await fellows.ask_others(service.worker, change, name, CHANGE_SECONDS)
    late = f"it has not answered within {CHANGE_SECONDS:g} s"
    if reasons := {number: late if reason is None else reason for number, reason in told.items() if reason != ""}:
        raise errors.WorkersBehind(reasons)


async def follow_load(service: Service, name: str) -> str:
    """Load a model that another worker has loaded; return why it cannot be, nothing if it is."""
    try:
        await service.repository.load(name)
    except LengthwiseError as error:
        return str(error)
    return ""


async def follow_unload(service: Service, name: str) -> str:
    """Unload a model that another worker has unloaded; one that is not there is as good."""
    with suppress(errors.UnknownModel):
        await service.repository.unload(name)
    return ""


async def follow_scan(service: Service, _given: Any) -> str:
    """Look at the files, as another worker has."""
    await service.repository.scan()
    return ""


async def catch_up(service: Service) -> None:
    """Serve what the other workers do, before this one takes requests.

    It may take the place of one that ended: what admins had unloaded stays so, and if it has loaded a newer file than
    the others serve, they are to load it too.
    """
    states = await tell_states(service)
    for told in (await fellows.ask_others(service.worker, "states")).values():
        for file, state in (told or {}).items():
            if state["reason"] == UNLOADED and _is_ready(states.get(file, state | {"state": ""})):
                await service.repository.unload(f"{states[file]['name']}@{states[file]['version']}")
        if told is not None and told != await tell_states(service):
            await fellows.ask_others(service.worker, "scan", seconds=CHANGE_SECONDS)
            return


async def _read_fields(request: Request) -> dict[str, Any]:
    """Read a small JSON object; no body is an empty one."""
    settings = service_of(request).settings
    body = await read_body(request, min(MAX_BODY_BYTES, settings.max_body_bytes), settings.body_timeout_seconds)
    return exact.read_document(body) if body else {}


ROUTES = [
    Route(
        "POST",
        "/v2/repository/index",
        list_states,
        tag="kserve",
        operation_id="v2_repository_index",
        summary="List the artifacts, served or not",
        responses={200: {"model": ModelStates}, **problems.document(*FAILURES[:-2], dialect=problems.KSERVE)},
        extra=_document(IndexRequest),
        body=IndexRequest,
    ),
    Route(
        "POST",
        "/v2/repository/models/{model}/load",
        load,
        access="admin",
        tag="kserve",
        operation_id="v2_repository_load",
        summary="Load a model, or the newer version of its file",
        responses={
            200: {"model": Done},
            **problems.document(*FAILURES, errors.ModelRefused, dialect=problems.KSERVE),
        },
        extra=_document(ChangeRequest, PATH),
        body=ChangeRequest,
    ),
    Route(
        "POST",
        "/v2/repository/models/{model}/unload",
        unload,
        access="admin",
        tag="kserve",
        operation_id="v2_repository_unload",
        summary="Serve a model no more, until it is loaded again",
        responses={200: {"model": Done}, **problems.document(*FAILURES, dialect=problems.KSERVE)},
        extra=_document(ChangeRequest, PATH),
        body=ChangeRequest,
    ),
]
