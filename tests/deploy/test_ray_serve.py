"""The service on Ray Serve, two replicas on this machine: the HTTP tests of `/encode`, an update, a replica that dies.

Ray is not among the project's extras; without `ray[serve]` what needs a cluster is left out.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from bench.load.servers import find_port
from lengthwise_client import Client, LengthwiseError
from service.app import create_app
from service.settings import Settings
from tests.api.test_encode import (  # noqa: F401 - they are run here, too
    PAIR,
    test_a_timeout_is_a_whole_number_of_milliseconds,
    test_base64_and_normalize_hold_the_same_numbers,
    test_other_media_types_are_refused,
    test_padding_may_hold_any_number_in_every_format,
    test_two_sequences_give_two_embeddings,
    test_wrong_paths_and_methods_are_problems_too,
)

HAS_RAY = bool(find_spec("ray")) and bool(find_spec("ray.serve"))
pytestmark = [
    pytest.mark.skipif(not HAS_RAY, reason="ray[serve] is not installed"),
    pytest.mark.filterwarnings("default"),  # Ray's are Ray's
]
CALLERS = 4
UPDATED = 4000  # steps in a sequence, after the update


class Cluster:
    """Ray Serve on this machine, with two replicas of the service.

    Attributes:
        url: where it answers.
    """

    def __init__(self, artifact: Path) -> None:
        """Start them."""
        port = find_port()
        self.url = f"http://127.0.0.1:{port}"
        self.ours = import_module("deploy.ray.serve")
        self.ray, self.serve = import_module("ray"), import_module("ray.serve")
        self._artifact = artifact
        self.ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        self.serve.start(http_options={"host": "127.0.0.1", "port": port})

    def deploy(self, **settings: Any) -> None:
        """Deploy the service, or another version of it, and wait until that serves."""
        given = {"model": self._artifact, "min_replicas": 2, "max_replicas": 2, "log_requests": False, **settings}
        self.serve.run(self.ours.build(self.ours.Arguments(**given)), name="lengthwise")

    def replicas(self) -> list[dict[str, str]]:
        """Return the names of the replicas' actors."""
        actors = self.ray.util.list_named_actors(all_namespaces=True)
        return [actor for actor in actors if actor["name"].startswith("SERVE_REPLICA::lengthwise#")]

    def kill(self, replica: dict[str, str]) -> None:
        """End a replica without a word."""
        self.ray.kill(self.ray.get_actor(replica["name"], namespace=replica["namespace"]))


@pytest.fixture(scope="module")
def cluster(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas that answer."""
    pytest.importorskip("ray.serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path.cwd()))  # for the replicas' processes
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("ray")))
        found = Cluster(artifact)
        try:
            found.deploy()
            yield found
        finally:
            found.serve.shutdown()
            found.ray.shutdown()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client of the cluster, in place of the one in process."""
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        yield client


@contextmanager
def calling(call: Callable[[], object]) -> Iterator[Counter[str]]:
    """Let several callers call again and again meanwhile.

    Yields:
        How often each answer, or error, came.
    """
    ended, counted = threading.Event(), Counter[str]()

    def go_on() -> None:
        while not ended.is_set():
            try:
                counted[str(call())] += 1
            except (httpx.HTTPError, LengthwiseError) as error:
                counted[repr(error)] += 1

    callers = [threading.Thread(target=go_on) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: counted.total() > CALLERS)
        yield counted
        total = counted.total()
        wait_until(lambda: counted.total() > total + CALLERS)
    finally:
        ended.set()
        for caller in callers:
            caller.join()


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for what will be so, or fail after a long while."""
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_is_reported_of_the_cluster() -> None:
    """Whoever imports the application has turned Ray's usage statistics off, and ONNX Runtime's telemetry, too."""
    import_module("deploy.ray.serve")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    usage = import_module("ray._common.usage.usage_lib")
    assert not usage.usage_stats_enabled()


def test_ray_leaves_the_queue_to_the_service() -> None:
    """More requests are let through than our queue holds at once, and a replica has longer to end than it drains."""
    ours = import_module("deploy.ray.serve")
    arguments = ours.Arguments(cpus=2, max_replicas=8, drain_seconds=20)
    settings, deployment = arguments.settings(), ours.build(arguments)._bound_deployment
    assert (settings.processes, settings.runners, settings.threads) == (
        1,
        3,
        1,
    )  # of the replica's CPUs, and not of the node's
    assert deployment.max_ongoing_requests == settings.max_connections
    assert deployment._deployment_config.graceful_shutdown_timeout_s > settings.drain_seconds == 20
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert deployment._deployment_config.autoscaling_config.max_replicas == 8


@pytest.mark.parametrize(
    ("drains", "busy", "wanted"),
    [
        ([], [], 3),  # nothing was told yet: as many as there are to be
        ([0.0, 0.0], [0.0, 0.0], 0),  # Ray keeps to the least number
        ([1.5, 1.5], [0.1, 0.1], 6),  # 3 s of waiting, half a second each
        ([0.0, 0.0], [1.0, 1.0], 3),  # two busy replicas, at 70 % each
    ],
)
def test_replicas_follow_the_wait_and_the_busy_share(drains: list[float], busy: list[float], wanted: int) -> None:
    """The larger of two numbers: so many that requests wait for 0.5 s, so many that runs take 70 % of the CPUs."""
    ours = import_module("deploy.ray.serve")
    told = {"drain_seconds": dict(enumerate(drains)), "busy_share": dict(enumerate(busy))}
    context = SimpleNamespace(aggregated_metrics=told, target_num_replicas=3)
    assert ours.scale(context) == (wanted, {})


def test_a_replica_tells_its_drain_and_its_busy_share(artifact: Path) -> None:
    """What is told is read from the queue and from the time of runs, since the last time it was asked."""
    from starlette.testclient import TestClient

    ours = import_module("deploy.ray.serve")
    replica = ours.Lengthwise(cpus=2)
    replica.app = create_app(Settings(model=artifact))
    with TestClient(replica.app) as client:
        replica.check_health()
        client.post("/encode", json={"sequences": PAIR}).raise_for_status()
        told, later = replica.record_autoscaling_stats(), replica.record_autoscaling_stats()
    assert told["drain_seconds"] == later["drain_seconds"] == later["busy_share"] == 0
    assert 0 < told["busy_share"] < 1


def test_the_requests_own_id_comes_back(client: httpx.Client) -> None:
    """Ray's proxy adds the header once more, with the same id."""
    response = client.post("/encode", json={"sequences": PAIR}, headers={"X-Request-Id": "mine-1"})
    assert set(response.headers.get_list("x-request-id")) == {"mine-1"}


def test_an_update_under_load_loses_nothing(cluster: Cluster) -> None:
    """Each replica is replaced by one of the new version while requests come, and every one is answered with 200."""
    before = cluster.replicas()
    assert len(before) == 2
    with httpx.Client(base_url=cluster.url, timeout=60) as client:

        def call() -> int:
            return client.post("/encode", json={"sequences": PAIR}).status_code

        with calling(call) as counted:
            cluster.deploy(max_sequence_steps=UPDATED)
        assert client.get("/info").json()["settings"]["max_sequence_steps"] == UPDATED
    assert set(counted) == {"200"}
    assert not {one["name"] for one in before} & {one["name"] for one in cluster.replicas()}


def test_a_replica_that_dies_under_load_costs_no_call(cluster: Cluster) -> None:
    """Ray answers 500 to what a killed replica held; our client asks again, and another replica takes its place."""
    gone = cluster.replicas()[0]
    with Client(cluster.url, timeout=60) as client:

        def call() -> int:
            return len(client.encode(PAIR))

        with calling(call) as counted:
            cluster.kill(gone)
            wait_until(lambda: gone not in cluster.replicas() and len(cluster.replicas()) == 2)
    assert set(counted) == {"2"}
