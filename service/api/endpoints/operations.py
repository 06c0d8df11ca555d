"""What operators ask: is it alive, is it ready, what is it."""

import os
import platform
import time
from typing import Any, Literal

import fastapi
import numpy as np
import onnxruntime
import orjson
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service import __version__, errors
from service.api import fellows, problems
from service.api.routing import Route, Service, service_of
from service.catalogue.models import ServedModel
from service.costs.measure import Arrangement
from service.costs.memory import resident_bytes

NONE = (0, 0, 0.0)  # what a worker tells of a model that it does not serve


class Health(BaseModel):
    """The service is well."""

    status: Literal["live", "ready"]


class Performance(BaseModel):
    """What was measured of the encoder on this machine, and what real runs say of it."""

    cpus: int = Field(description="CPUs that all workers may keep busy together, by affinity and quota.")
    runners: int = Field(
        description="Batches that run at the same time in a worker while the others are idle, else its share of them."
    )
    threads: int = Field(description="Threads within one run.")
    arrangements: list[Arrangement] = Field(description="Those tried, the chosen one first.")
    cached: bool = Field(description="Whether the measurements of an earlier start were used.")
    shapes_measured: int = Field(description="Batches, rows by steps, whose time is known; idle time adds to them.")
    runs: int = Field(description="Real runs since the start, of all workers.")
    prediction_error: float = Field(description="Usual distance of a run's time from its prediction, in parts of it.")
    correction: float = Field(description="What real runs take over what was measured; predictions hold it already.")
    loaded_correction: float = Field(description="The same of runs while all runners were at work.")
    waiting_sequences: int = Field(description="Sequences in the queues of all workers.")
    wait_seconds: float = Field(description="Until all that waits now should have its runner, in whichever worker.")


class ModelInfo(BaseModel):
    """An encoder that is served."""

    name: str
    version: str
    names: list[str] = Field(description="That requests may call it by.")
    file: str
    provider: str = Field(description="Where it runs.")
    sha256: str = Field(description="Of the whole artifact; every answer repeats it as X-Model-Sha.")
    verified: bool = Field(description="Whether golden vectors in the file were replayed here before serving.")
    golden_difference: float | None = Field(description="Largest difference in that replay.")
    features: int | None = Field(description="Numbers in a step; null if steps are token ids.")
    vocabulary: int | None = Field(description="Token ids are below it; null if steps are numbers.")
    reads: list[str] = Field(description="Fields of a request that may bring sequences: `sequences`, `texts`, `state`.")
    outputs: list[str] = Field(description="What a request may ask for.")
    dim: int = Field(description="Numbers in an embedding.")
    memory_bytes: int | None = Field(description="By which a process grew that loaded and proved it.")
    performance: Performance
    manifest: dict[str, Any] | None = Field(description="What the artifact says of itself, golden vectors left out.")


class RefusedArtifact(BaseModel):
    """An artifact that is not served, or a newer version of one that is."""

    file: str
    reason: str


class WorkerInfo(BaseModel):
    """One of the processes that serve."""

    number: int
    pid: int
    resident_bytes: int = Field(description="Memory it holds; part of it is shared with the others.")


class WorkersInfo(BaseModel):
    """The processes that serve."""

    number: int
    why: str = Field(description="What decided how many there are.")
    answering: list[WorkerInfo] = Field(description="Those that answered within a second.")


class Info(BaseModel):
    """What this service is, and every limit in force."""

    version: str
    default_model: str | None = Field(description="What a request is for that names none; null if it must.")
    workers: WorkersInfo
    models: list[ModelInfo] = Field(description="By name, and of each the newest version first.")
    refused: list[RefusedArtifact]
    settings: dict[str, Any] = Field(description="Every setting in force.")
    versions: dict[str, str] = Field(description="Of Python and the libraries that matter.")


async def live(request: Request) -> Response:
    """Answer 200 while the event loop turns, and runs end if requests wait."""
    service_of(request).require_progress()
    return _json(Health(status="live"))


async def ready(request: Request) -> Response:
    """Answer 200 once the golden vectors were replayed, until the service drains."""
    service_of(request).require_ready()
    return _json(Health(status="ready"))


async def info(request: Request) -> Response:
    """Describe the models and their proofs, the versions and every setting in force."""
    service = service_of(request)
    versions = {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "fastapi": fastapi.__version__,
    }
    staff, own = service.staff, await tell_state(service)
    told = [own, *filter(None, (await fellows.ask_others(service.worker, "state")).values())]
    return _json(
        Info(
            version=__version__,
            default_model=service.models.default_name,
            workers=WorkersInfo(
                number=staff.number, why=staff.why, answering=[WorkerInfo(**one["worker"]) for one in told]
            ),
            models=[
                _describe_model(
                    model, service.models.names_of(model), [one["models"].get(model.full_name, NONE) for one in told]
                )
                for model in service.models
            ],
            refused=[
                RefusedArtifact(file=one.file, reason=one.reason) for one in service.repository.index() if one.reason
            ],
            settings=service.settings.model_dump(mode="json"),
            versions=versions,
        )
    )


async def tokenizer(request: Request) -> Response:
    """Return the tokenizer of a model, as the JSON of the library `tokenizers`; null if the model reads no texts.

    Its ids are those that the service makes of the same texts, so that a client can count them, or send them in their
    place.
    """
    model = service_of(request).models.find(request.query_params.get("model"))
    manifest = model.session.manifest
    written = None if manifest is None else manifest.input.tokenizer
    return Response(written or "null", headers={"X-Model-Sha": model.session.sha256}, media_type="application/json")


async def tell_state(service: Service, _given: Any = None) -> dict[str, Any]:
    """Tell of this worker, and of each model the runs since the start, the sequences that wait and for how long."""
    now, queues = time.perf_counter(), service.engine.queues
    models = {}
    for model in service.models:
        forecast = queues.forecast(model.queue, now)
        models[model.full_name] = model.calibrator.costs.runs, forecast.sequences, forecast.seconds
    number = service.worker.number if service.worker else 0
    worker = {"number": number, "pid": os.getpid(), "resident_bytes": resident_bytes()}
    return {"worker": worker, "models": models}


def _describe_model(model: ServedModel, names: list[str], told: list[tuple[int, int, float]]) -> ModelInfo:
    session = model.session
    return ModelInfo(
        name=model.name,
        version=model.version,
        names=names,
        file=model.file.name,
        provider=session.provider,
        sha256=session.sha256,
        verified=session.manifest is not None,
        golden_difference=model.golden_difference,
        features=session.kind.features,
        vocabulary=session.kind.vocabulary,
        reads=["sequences", *(["texts"] if model.spec.tokenize else []), *(["state"] if session.takes_state else [])],
        outputs=list(session.outputs),
        dim=session.dim,
        memory_bytes=model.memory_bytes,
        performance=_describe_performance(model, told),
        manifest=session.manifest.summary() if session.manifest else None,
    )


def _describe_performance(model: ServedModel, told: list[tuple[int, int, float]]) -> Performance:
    runs, waiting, seconds = zip(*told, strict=True)
    calibrator, costs = model.calibrator, model.calibrator.costs
    chosen = calibrator.arrangements[0]
    return Performance(
        cpus=calibrator.cpus,
        runners=chosen.runners,
        threads=chosen.threads,
        arrangements=calibrator.arrangements,
        cached=calibrator.is_cached,
        shapes_measured=len(costs.measured),
        runs=sum(runs),
        prediction_error=round(costs.error, 4),
        correction=round(costs.factors[False], 4),
        loaded_correction=round(costs.factors[True], 4),
        waiting_sequences=sum(waiting),
        wait_seconds=round(max(seconds), 6),
    )


def _json(content: BaseModel) -> Response:
    return Response(orjson.dumps(content.model_dump(mode="json")), media_type="application/json")


ROUTES = [
    Route(
        "GET",
        "/health/live",
        live,
        access="open",
        is_probe=True,
        operation_id="live",
        summary="Is the process alive",
        responses={200: {"model": Health}, **problems.document(errors.Stuck)},
    ),
    Route(
        "GET",
        "/health/ready",
        ready,
        access="open",
        is_probe=True,
        operation_id="ready",
        summary="May requests be sent here",
        responses={200: {"model": Health}, **problems.document(errors.Draining, errors.Stuck)},
    ),
    Route(
        "GET",
        "/info",
        info,
        operation_id="info",
        summary="What is served, and its limits",
        responses={200: {"model": Info}},
    ),
    Route(
        "GET",
        "/tokenizer",
        tokenizer,
        operation_id="tokenizer",
        summary="How a model makes token ids of texts",
        responses={
            200: {"content": {"application/json": {"schema": {"type": ["object", "null"]}}}},
            **problems.document(errors.UnknownModel),
        },
        extra={
            "parameters": [
                {
                    "name": "model",
                    "in": "query",
                    "required": False,
                    "description": "The model's name; the default model's if it is left out.",
                    "schema": {"type": "string"},
                }
            ]
        },
    ),
]
