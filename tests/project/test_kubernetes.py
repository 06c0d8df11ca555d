"""The manifests in `deploy/kubernetes/` render, are ones that Kubernetes, KEDA and KServe take, and fit the code."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from bulk.__main__ import main
from tests.project.kubernetes import OPEN_PROBES, Manifest, check_all, check_kserve, find, list_pods, read_job

WITH_DEV = "it comes with the extra dev"
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
FOLDER = Path("deploy/kubernetes")
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
KUBERNETES = "1.37"  # kubectl's
OWN_KINDS = {"ScaledObject", "PodMonitor", "ServingRuntime", "InferenceService"}  # not Kubernetes'

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl renders the manifests")


@cache
def render(overlay: str) -> str:
    """Return an overlay as Kubernetes gets it."""
    command = [str(KUBECTL), "kustomize", str(FOLDER / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read(text: str) -> list[Manifest]:
    """Read manifests."""
    return [*yaml.safe_load_all(text)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_kubernetes_takes(overlay: str) -> None:
    """Each manifest has the members of its kind, with the right types, and no other; so have KServe's containers."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=WITH_DEV)
    manifests = read(render(overlay))
    for manifest in manifests:
        if manifest["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        elif manifest["kind"] == "ServingRuntime":
            spec = {name: manifest["spec"][name] for name in ("containers", "volumes")}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-a-runtime"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_code(overlay: str) -> None:
    """Probes, ports, flags, settings, users, folders, metrics and selectors are the ones there are."""
    check_all(read(render(overlay)))


def test_the_scaled_object_is_what_keda_takes() -> None:
    """Nothing in it is lost on KEDA's own model."""
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason=WITH_DEV)
    manifest = find(read(render("keda")), "ScaledObject")
    model = keda.ScaledObject.model_validate(manifest)
    found = json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))
    assert found == manifest


@pytest.mark.skipif(find_spec("kserve") is None, reason="make install of developers brings KServe's models")
@pytest.mark.parametrize("overlay", ["kserve", "kserve-grpc"])
def test_kserves_manifests_are_what_kserve_takes(overlay: str) -> None:
    """Every member is in KServe's published models."""
    manifests = read(render(overlay))
    for manifest in manifests:
        check_kserve(manifest)
    manifests[0]["spec"]["protocolVersion"] = ["v2"]
    with pytest.raises(AssertionError, match="protocolVersion"):
        check_kserve(manifests[0])


def test_kserve_is_asked_for_the_runtime_by_name() -> None:
    """The service names the runtime and a format of it; a plain ONNX file comes here only if it is asked for."""
    manifests = read(render("kserve"))
    runtime, service = find(manifests, "ServingRuntime"), find(manifests, "InferenceService")
    model = service["spec"]["predictor"]["model"]
    formats = {one["name"]: one.get("autoSelect", False) for one in runtime["spec"]["supportedModelFormats"]}
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in formats
    assert formats["onnx"] is False
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"


def test_probes_are_answered(client: TestClient) -> None:
    """Each path that any probe asks is 200 while the service is well."""
    asked = {
        container[name]["httpGet"]["path"]
        for overlay in OVERLAYS
        for _, pod in list_pods(read(render(overlay)))
        for container in pod["containers"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
        if name in container
    }
    assert asked <= OPEN_PROBES
    assert {client.get(path).status_code for path in asked} == {200}


# A mistake in an overlay, and what notices it.
MISTAKES = {
    "probe path": ("cpu", "path: /health/ready", "path: /healthz", "path of startupProbe"),
    "liveness by readiness": ("cpu", "path: /health/live", "path: /health/ready", "livenessProbe"),
    "probe port": ("cpu", "port: http\n", "port: web\n", "port of"),
    "port": ("cpu", "containerPort: 8000", "containerPort: 8001", "port of lengthwise"),
    "KServe's port": ("kserve", "--http_port=8080", "--http_port=8000", "port of kserve-container"),
    "gRPC's port": ("grpc", "containerPort: 8001", "containerPort: 8002", "port of gRPC"),
    "gRPC's port in KServe": ("kserve-grpc", "containerPort: 9000", "containerPort: 9001", "port of gRPC"),
    "the name of gRPC's port in KServe": ("kserve-grpc", "name: h2c", "name: grpc", "port of gRPC"),
    "the protocol of gRPC in KServe": ("kserve-grpc", "  - grpc-v2\n", "", "protocols of the runtime"),
    "gRPC's port of the Service": ("grpc", "targetPort: grpc", "targetPort: rpc", "ports of the Service"),
    "gRPC's port in the policy": ("grpc", "- port: grpc", "- port: rpc", "ports that are let in"),
    "grace": ("cpu", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "time to drain"),
    "user": ("job", "runAsUser: 65532", "runAsUser: 1000", "Job"),
    "root": ("kserve", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "ServingRuntime"),
    "metric": ("keda", "lengthwise_queue_drain_seconds", "lengthwise_queue_seconds", "metric in"),
    "label": ("keda", '{job="lengthwise"}', '{pods="lengthwise"}', "a name in"),
    "scraped port": ("keda", "    port: http\n    scrape", "    port: metrics\n    scrape", "port that is scraped"),
    "threshold": ("keda", 'threshold: "1.4"', 'threshold: "0.7"', "threshold of busy"),
    "selector": (
        "cpu",
        "  podSelector:\n    matchLabels:\n      app.kubernetes.io/name: lengthwise\n",
        "  podSelector: {}\n",
        "selects",
    ),
    "shares": ("job", "completions: 8", "completions: 9", "shares"),
    "replicas": ("cpu", "spec:\n  selector:", "spec:\n  replicas: 2\n  selector:", "replicas"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_manifest_is_noticed(mistake: str) -> None:
    """A wrong path, port, user, metric, selector or share fails a check that names it."""
    overlay, right, wrong, words = MISTAKES[mistake]
    text = render(overlay)
    assert right in text
    manifests = read(text.replace(right, wrong))
    with pytest.raises(AssertionError, match=words):
        check_all(manifests)


@pytest.mark.parametrize(("name", "value"), [("LENGTHWISE_DRAIN", "30"), ("LENGTHWISE_DRAIN_SECONDS", "soon")])
def test_a_setting_that_is_none_is_noticed(name: str, value: str) -> None:
    """A variable must be a setting's, and its value one that the setting takes."""
    manifests = read(render("cpu"))
    find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"][1] = {
        "name": name,
        "value": value,
    }
    with pytest.raises((KeyError, ValueError)):
        check_all(manifests)


def test_the_jobs_pods_encode_every_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All shares of the Job's command line, run one after the other, leave one whole output."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        rows = {"sequence": [[[0.1 * number] * 12] * length for length in (1, 2, 3)]}
        pq.write_table(pa.table(rows), tmp_path / "in" / f"{number}.parquet")
    shutil.copy("artifacts/japanese-vowels.onnx", tmp_path / "encoder.onnx")
    job: Any = find(read(render("job").replace("/data", str(tmp_path))), "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    monkeypatch.setattr("signal.signal", lambda *_: None)  # they are pytest's own
    for index in range(job["spec"]["completions"]):
        assert read_job(job, index).shard == f"{index}/8"
        arguments = [text.replace("$(JOB_COMPLETION_INDEX)", str(index)) for text in container["args"]]
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--quiet"])
        assert not ended.value.code
    parts = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    assert parts == [f"part-{number:05}.parquet" for number in range(3)]


def test_the_image_holds_what_the_job_runs(tmp_path: Path) -> None:
    """Bulk runs with nothing beside it but the folders that the Dockerfile copies, none of which the context lacks."""
    dockerfile = Path("Dockerfile").read_text(encoding="utf-8")
    folders = [line.split()[1] for line in dockerfile.splitlines() if re.match(r"COPY (service|bulk|artifacts) ", line)]
    ignored = Path(".dockerignore").read_text(encoding="utf-8").splitlines()
    for folder in folders:
        assert f"!{folder}" in ignored
        shutil.copytree(folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "bulk", "--help"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--shard I/N" in ran.stdout
