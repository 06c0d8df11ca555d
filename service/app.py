"""Puts the parts together: `create_app(settings)` is the whole service."""

from functools import partial

from service import upkeep
from service.api import problems
from service.api.crowd import Crowd
from service.api.document import ServedDocument
from service.api.endpoints import (
    clouds,
    kserve,
    monitoring,
    native,
    openai,
    operations,
    pages,
    repository,
    showing,
    statistics,
)
from service.api.fallback import build_fallback, describe
from service.api.front import Front
from service.api.keys import read_keys
from service.api.meter import StepMeter
from service.api.routing import Service
from service.api.unread import Unread
from service.api.worker import ALONE, Staff, Worker
from service.catalogue.ahead import NOTHING, Ahead
from service.catalogue.loading import Loader
from service.catalogue.models import Models
from service.catalogue.repository import Repository
from service.encoder.remote import Owners
from service.encoder.session import find_artifact, list_folder
from service.errors import ArtifactError
from service.observing.counts import Telemetry
from service.observing.logs import RequestLog
from service.settings import Settings

# Of those that match a path, FastAPI takes the first: `clouds` has one that a model's path in `openai` matches, too.
PARTS = (native, clouds, openai, kserve, statistics, repository, operations, monitoring, pages, showing)


def create_app(
    settings: Settings,
    worker: Worker | None = None,
    owners: Owners | None = None,
    ahead: Ahead = NOTHING,
    staff: Staff = ALONE,
) -> Front:
    """Load the encoder, prove that it is the one that was exported, and build the app that serves it.

    Args:
        settings: the service's settings.
        worker: what this process is, if it is one of several.
        owners: the processes that run the batches, if this one does not.
        ahead: what was loaded before this process was forked.
        staff: how many workers there are, and why.

    Raises:
        StartupError: the artifact, its golden vectors, the provider or the API keys are not as they must be.
    """
    keys, admin_keys = read_keys(settings)
    telemetry = Telemetry(map(problems.name_problem, problems.REFUSALS))
    if settings.log_requests:
        telemetry.witnesses.append(RequestLog(settings.log_level, settings.log_format).write)
    models = Models(settings.default_model)
    loader = Loader(settings, owners, worker.board if worker else None, ahead)
    artifacts = Repository(settings.models or find_artifact(settings.model), models, loader.open, telemetry.see_change)
    if settings.models and list_folder(settings.models) is None:
        raise ArtifactError(str(settings.models), "it is not a folder")
    artifacts.open_all(is_strict=settings.models is None)
    service = Service(
        settings,
        models,
        artifacts,
        telemetry,
        Unread(settings.unread_bytes, partial(telemetry.see_closed, "unread")),
        Unread(settings.unread_bytes),
        Crowd(settings.connections, partial(telemetry.see_closed, "idle")),
        keys,
        admin_keys,
        StepMeter(settings.steps_per_second, worker.shared.rates if worker else None)
        if settings.steps_per_second
        else None,
        worker,
        staff,
    )
    # What is for admins is not there without any.
    routes = [route for part in PARTS for route in part.ROUTES if route.access != "admin" or admin_keys]
    routes = [route for route in routes if route.tag != "page" or settings.page]
    routes += clouds.name_routes(settings, routes)
    fallback = build_fallback(routes, lambda _app: upkeep.attend(service, loader))
    service.document = ServedDocument(models, settings.limits, partial(describe, fallback, routes, service))
    return Front(service, routes, fallback)
