"""Bulk on a cluster of Ray: the bytes of one machine, whatever happens to its nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulk.stores import Place
from tests.bulk.command import download, encode, hash_folder, refuse, upload, write_jsonl, write_parquet
from tests.conftest import FEATURES, MADE, draw_sequences

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster(store: dict[str, str]) -> Iterator[Any]:
    """A cluster of two nodes that work, one CPU each, and one that does not; all know of the store."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", **store})  # before what follows is imported
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()
    for name in store:
        del os.environ[name]


def count_parts(out: Path) -> int:
    """Count the parts that are done."""
    return sum(1 for _ in out.glob("part-*.parquet"))


def test_a_node_lost_twice_changes_no_byte(cluster: Any, tmp_path: Path) -> None:
    """Its shards run again elsewhere, and all is as one machine writes it, problems included."""
    draw = np.random.default_rng(1)
    rows = [
        {"id": row, "sequence": draw.standard_normal((row % 40, FEATURES)).astype(np.float32).tolist()}
        for row in range(800)
    ]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "alone")
    flags = ["-m", "bulk", str(file), "-o", str(tmp_path / "out"), "--model", str(MADE), "--engine", "ray", "--quiet"]
    encode(file, "-o", tmp_path / "out", "--limit", 1)  # makes the plan, whose shards are small here
    nodes = [*cluster.worker_nodes]
    lost: list[int] = []
    with subprocess.Popen([sys.executable, *flags, "--address", cluster.address]) as process:
        for more in (3, 10):
            until = count_parts(tmp_path / "out") + more
            while count_parts(tmp_path / "out") < until and process.poll() is None:
                time.sleep(0.005)
            lost.append(count_parts(tmp_path / "out"))  # when that begins, since it takes a while
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            process.send_signal(signal.SIGSTOP)  # or all might be done before there is another node to lose
            try:
                nodes.insert(0, cluster.add_node(num_cpus=1))
            finally:
                process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    assert lost[0] < lost[1] < len(json.loads((tmp_path / "alone/plan.json").read_text())["shards"])
    assert hash_folder(tmp_path / "out") == hash_folder(tmp_path / "alone")


def test_a_cluster_refuses_as_one_machine_does(cluster: Any, tmp_path: Path) -> None:
    """A row that may not fail ends it in the same sentence, and a service cannot be asked from there."""
    good, empty = draw_sequences([3, 0])
    file = write_parquet(tmp_path / "in.parquet", [good, good, empty], 1)
    flags = (file, "--on-error", "fail")
    expected = refuse(*flags, "-o", tmp_path / "alone")
    there = ("--engine", "ray", "--address", cluster.address)
    assert refuse(*flags, "-o", tmp_path / "out", *there) == expected
    assert "--max-errors is 0" in refuse(file, "-o", tmp_path / "few", "--max-errors", 0, *there)


@pytest.mark.skipif(find_spec("moto") is None, reason="moto, which speaks S3, is not installed")
def test_actors_read_and_write_a_bucket(bucket: Place, cluster: Any, tmp_path: Path) -> None:
    """Each its own shards, and all is as one machine writes it."""
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate(draw_sequences([3, 0, 9, 1] * 5))]
    file = upload(write_jsonl(tmp_path / "in.jsonl", rows), bucket / "in.jsonl")
    encode(file, "-o", tmp_path / "alone")
    encode(file, "-o", bucket / "out", "--engine", "ray", "--address", cluster.address)
    assert hash_folder(download(bucket / "out", tmp_path / "out")) == hash_folder(tmp_path / "alone")


def test_ray_reports_nothing_to_its_makers() -> None:
    """Whatever the environment says, bulk switches Ray's usage reports off before it imports Ray."""
    script = "import bulk.cluster; from ray._common.usage.usage_lib import usage_stats_enabled as ask; print(ask())"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "1"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "False\n", ran.stderr
