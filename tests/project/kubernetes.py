"""What is checked of Kubernetes' manifests against the code: each check raises AssertionError, and says where."""

import ast
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser
from pydantic_settings import CliApp

from bulk.__main__ import SIGNALLED, read_arguments
from service.app import PARTS
from service.server.workers import END_SECONDS
from service.settings import Settings, variable_of
from tests.api.test_monitoring import METRICS
from tests.project.test_deploy import SERIES, tokenize

Manifest = dict[str, Any]

DOCKERFILE = Path("Dockerfile").read_text(encoding="utf-8")
OPEN_PROBES = {
    route.path for part in PARTS for route in part.ROUTES if route.is_probe and route.access == "open"
}  # kubelets bring no key
WORDS = {"sum", "rate", "job"}
POD_WORKLOADS = {"Deployment", "Job"}
HARDENED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
BUSY_SHARE = 0.7  # of the CPUs of a pod, that runs should take


def find(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = (one for one in manifests if one["kind"] == kind)
    return found


def list_pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the specification of each pod; KServe's is in two parts, which it merges."""
    for one in manifests:
        if one["kind"] in POD_WORKLOADS:
            yield one["kind"], one["spec"]["template"]["spec"]
        elif one["kind"] == "ServingRuntime":
            yield one["kind"], {**one["spec"], **find(manifests, "InferenceService")["spec"]["predictor"]}


def read_settings(container: Manifest) -> Settings:
    """Return the settings of a container of the service, as its variables and flags say."""
    names = {variable_of(name): name for name in Settings.model_fields}
    values = {names[one["name"]]: one["value"] for one in container.get("env", ())}
    arguments = [argument.replace("{{.Name}}", "lengthwise") for argument in container.get("args", ())]
    return CliApp.run(Settings, cli_args=arguments, **values)


def check_service(manifests: list[Manifest]) -> None:
    """Probes are open routes at the port where the service listens; it has time to drain."""
    for kind, pod in list_pods(manifests):
        if kind == "Job":
            continue
        (container,) = pod["containers"]
        settings = read_settings(container)
        port, *others = container["ports"]
        assert port["containerPort"] == settings.port, f"the port of {container['name']}"
        name = "h2c" if kind == "ServingRuntime" else "grpc"  # KServe tells by it what is spoken
        spoken = [] if settings.grpc_port is None else [(name, settings.grpc_port)]
        assert [(one["name"], one["containerPort"]) for one in others] == spoken, "the port of gRPC"
        if kind == "ServingRuntime":
            versions = find(manifests, kind)["spec"]["protocolVersions"]
            assert ("grpc-v2" in versions) == bool(spoken), "the protocols of the runtime"
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[name]["httpGet"]
            assert asked["path"] in OPEN_PROBES, f"the path of {name}"
            assert asked["port"] in (port["name"], port["containerPort"]), f"the port of {name}"
            assert asked["path"].endswith("/live") == (name == "livenessProbe"), name
        stuck = 1.5 * settings.max_run_seconds
        assert container["startupProbe"]["failureThreshold"] >= stuck, "the time to start"
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = pause + settings.drain_seconds + END_SECONDS
        assert pod["terminationGracePeriodSeconds"] >= needed, "the time to drain"


def check_hardening(manifests: list[Manifest]) -> None:
    """Pods run as the image's user, without privileges, token or writable root, within limits."""
    user, group = map(int, re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE).groups())  # type: ignore[union-attr]
    cache = re.search(r"LENGTHWISE_CACHE_DIR=(\S+)", DOCKERFILE)
    assert cache
    for kind, pod in list_pods(manifests):
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (user, group, True), kind
        assert context["fsGroup"] == group, kind
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, kind
        assert pod["automountServiceAccountToken"] is False, kind
        assert pod["enableServiceLinks"] is False, kind
        (container,) = pod["containers"]
        hardened = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == hardened, kind
        volumes = {one["name"]: one for one in pod["volumes"]}
        mounted = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
        assert "emptyDir" in mounted[cache[1]], kind
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests["cpu"] == limits["cpu"], f"{kind}: the service counts the CPUs of the limit"
        assert {"memory"} <= requests.keys() & limits.keys(), kind


def check_selectors(manifests: list[Manifest]) -> None:
    """Whatever selects pods selects those of the Deployment, and nothing of it is down during an update."""
    if not any(one["kind"] == "Deployment" for one in manifests):
        return
    deployment = find(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels
    budget, network, service = (
        find(manifests, kind)["spec"] for kind in ("PodDisruptionBudget", "NetworkPolicy", "Service")
    )
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors = [deployment["spec"]["selector"], budget["selector"], network["podSelector"]]
    selectors += [one["labelSelector"] for one in spread]
    selectors += [one["spec"]["selector"] for one in manifests if one["kind"] == "PodMonitor"]
    for selector in selectors:
        assert selector == {"matchLabels": labels}, "what selects pods"
    assert service["selector"] == labels, "what selects pods"
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "an update"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = [one["name"] for one in container["ports"]]
    assert [one["targetPort"] for one in service["ports"]] == [*names], "the ports of the Service"
    assert [one["port"] for one in network["ingress"][0]["ports"]] == [*names], "the ports that are let in"
    is_scaled = any(one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject") for one in manifests)
    assert is_scaled != ("replicas" in deployment["spec"]), "the replicas, which an autoscaler sets"


def check_monitoring(manifests: list[Manifest]) -> None:
    """Metrics are scraped where they are, and asked for by the names and labels that they have."""
    for one in manifests:
        if one["kind"] == "PodMonitor":
            (endpoint,) = one["spec"]["podMetricsEndpoints"]
            (container,) = find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
            assert endpoint["path"] == "/metrics"
            assert endpoint["port"] in {port["name"] for port in container["ports"]}, "the port that is scraped"
        if one["kind"] != "ScaledObject":
            continue
        deployment = find(manifests, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        job = labels[find(manifests, "PodMonitor")["spec"]["jobLabel"]]
        queries = [trigger["metadata"] for trigger in one["spec"]["triggers"] if trigger["type"] == "prometheus"]
        assert one["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        for query in queries:
            expression = query["query"]
            promql_parser.parse(expression)
            names = {token for token in tokenize(expression) if re.fullmatch(r"[a-zA-Z_]\w*", token)}
            assert names & SERIES.keys(), f"the metric in {expression}"
            known = {label for name in names & SERIES.keys() for label in METRICS[SERIES[name]][1]}
            assert names <= WORDS | SERIES.keys() | known, f"a name in {expression}"
            assert f'job="{job}"' in expression, expression
            assert query["ignoreNullValues"] == "false", expression
        cpus = float(deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        assert float(queries[1]["threshold"]) == BUSY_SHARE * cpus, "the threshold of busy CPUs"


def check_job(manifests: list[Manifest]) -> None:
    """The Job's command line is one of bulk's, its shares are its completions, and a stop is no failure."""
    for one in manifests:
        if one["kind"] == "Job":
            options = read_job(one, 0)
            assert options.shard == f"0/{one['spec']['completions']}", "the shares"
            (container,) = one["spec"]["template"]["spec"]["containers"]
            assert container["command"] == ["python", "-m", "bulk"]
            codes = [rule["onExitCodes"] for rule in one["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
            assert codes == [
                {"containerName": container["name"], "operator": "In", "values": [SIGNALLED + signal.SIGTERM]}
            ], "the stop"


def read_job(job: Manifest, index: int) -> Any:
    """Read the command line of one of a Job's pods, as bulk does."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return read_arguments([text.replace("$(JOB_COMPLETION_INDEX)", str(index)) for text in container["args"]])


def check_all(manifests: list[Manifest]) -> None:
    """Check manifests in every way but those that need another's model of them."""
    for check in (check_service, check_hardening, check_selectors, check_monitoring, check_job):
        check(manifests)


def check_kserve(manifest: Manifest) -> None:
    """Every member of a manifest is in KServe's published models, down to what is Kubernetes' own."""
    version, kind = manifest["apiVersion"].rpartition("/")[2], manifest["kind"]
    _check_member(manifest, f"{version.capitalize()}{kind}", kind)


def _check_member(value: object, model: str, place: str) -> None:
    kind, _, inner = model.rstrip(")").partition("[" if model.startswith("list") else "(")
    if kind == "list":
        assert isinstance(value, list), place
        for index, part in enumerate(value):
            _check_member(part, inner.rstrip("]"), f"{place}[{index}]")
    elif members := _read_model(kind):
        assert isinstance(value, dict), place
        for name, part in value.items():
            assert name in members, f"{place}.{name}"
            _check_member(part, members[name], f"{place}.{name}")


def _read_model(name: str) -> dict[str, str]:
    """Return the members of one of KServe's models with their types; none if it is not KServe's.

    The package is not imported: it asks for packages that the service's lock has otherwise.
    """
    spec = find_spec("kserve")
    assert spec
    assert spec.submodule_search_locations
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    path = Path(spec.submodule_search_locations[0], "models", f"{file}.py")
    if not path.exists():
        return {}
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    types, names = tables["openapi_types"], tables["attribute_map"]
    return {names[member]: kind for member, kind in types.items()}
