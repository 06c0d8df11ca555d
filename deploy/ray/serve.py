"""The service on Ray Serve: replicas on a cluster, each the whole service with its own queue.

`serve run deploy.ray.serve:build model=artifacts/japanese-vowels.onnx` starts it, from the project's root and with
`RAY_USAGE_STATS_ENABLED=0`. `ray[serve]` is not among the project's extras: install it where the cluster is.
"""

import math
import os
import time
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: nothing is reported to anyone

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from service.app import create_app
from service.costs.measure import count_runners
from service.settings import Settings

WAIT_SECONDS = 0.5  # that a request should wait, on average over the replicas
BUSY_SHARE = 0.7  # of a replica's CPUs, that runs should take
END_SECONDS = 15  # beyond the time to drain, before Ray ends a replica that has not ended


class Arguments(BaseModel):
    """What `serve run` is given: replicas, and beside them any setting of the service by its name."""

    model_config = ConfigDict(extra="allow")

    cpus: int = Field(1, ge=1, description="CPUs of a replica.")
    gpus: float = Field(0, ge=0, description="GPUs of a replica.")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    upscale_delay_seconds: float = 5.0
    downscale_delay_seconds: float = 300.0

    def settings(self) -> Settings:
        """Return the service's settings: Ray has the port, and says which CPUs and GPUs are a replica's."""
        given: dict[str, Any] = {"processes": 1, "runners": count_runners(self.cpus), "threads": 1}
        return Settings(**given | (self.model_extra or {}))


class Lengthwise:
    """What Ray asks a replica, beside the requests that its app answers."""

    app: Any  # the service's app, which `serve.ingress` adds

    def __init__(self, cpus: int) -> None:
        """Be asked nothing yet.

        Args:
            cpus: CPUs of the replica.
        """
        self._cpus = cpus
        self._asked, self._ran = time.perf_counter(), 0.0

    def check_health(self) -> None:
        """Raise an error if requests wait and nothing moves: Ray then starts another replica."""
        self.app.state.service.require_progress()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the seconds until the queue is drained, and the share of the CPUs that runs took since the last call."""
        service, now = self.app.state.service, time.perf_counter()
        service.telemetry.settle()
        queues = service.engine.queues
        drain = max((queues.forecast(model.queue, now).seconds for model in service.models), default=0.0)
        ran = sum(counts.run_seconds for counts in service.telemetry.models.values())
        busy = (ran - self._ran) / (max(now - self._asked, 1e-3) * self._cpus)
        self._asked, self._ran = now, ran
        return {"drain_seconds": drain, "busy_share": busy}


def scale(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Say how many replicas there should be: so many that requests wait, and runs keep CPUs busy, as they should.

    Ray keeps the number within its bounds, and waits before it follows.
    """
    told = context.aggregated_metrics or {}
    drains, busy = (told.get(name, {}).values() for name in ("drain_seconds", "busy_share"))
    if not busy:  # no replica has told anything yet
        return context.target_num_replicas, {}
    return math.ceil(max(sum(drains) / WAIT_SECONDS, sum(busy) / BUSY_SHARE)), {}


def build(arguments: Arguments) -> serve.Application:
    """Build the application that `serve run` deploys.

    Args:
        arguments: what the command line gives.
    """
    settings = arguments.settings()

    def build_app() -> Any:
        return create_app(settings)

    autoscaling = AutoscalingConfig(
        min_replicas=arguments.min_replicas,
        max_replicas=arguments.max_replicas,
        upscale_delay_s=arguments.upscale_delay_seconds,
        downscale_delay_s=arguments.downscale_delay_seconds,
        look_back_period_s=15,
        policy=AutoscalingPolicy(policy_function=scale),
    )
    deployment = serve.deployment(
        serve.ingress(build_app)(Lengthwise),
        name="lengthwise",
        # Our queue decides what runs next and what is refused; with Ray's default of 5 it would have nothing to choose.
        max_ongoing_requests=settings.max_connections,
        max_queued_requests=settings.max_connections,
        graceful_shutdown_timeout_s=settings.drain_seconds + END_SECONDS,
        graceful_shutdown_wait_loop_s=1,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        autoscaling_config=autoscaling,
    )
    return deployment.bind(arguments.cpus)
