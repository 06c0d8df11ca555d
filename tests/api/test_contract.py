"""The service keeps to its OpenAPI document, over a socket, whatever is sent: judged by schemathesis.

In the suite each operation gets some cases; thousands are tried by
`pytest tests/api/test_contract.py --hypothesis-profile=fuzz`.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from bench.load.launch import start_service
from tests.api.test_keys import FIRST
from tests.made import take

CASES = 500 if hypothesis.settings.get_current_profile_name() == "fuzz" else 2  # of each operation, and boundary cases
# That all is accepted which the document allows is not asked: no schema can say which lengths fit which sequences.
NOT_ASKED = "positive_data_acceptance"
HANG_SECONDS = 60  # for any answer


# Or all would be about unknown models or others than expected. A deadline of 1 ms is a 504, which is documented, and
# would be taken for a fault. An unknown header would be taken for one that must be refused, which no service does.
PARAMETERS = """[parameters]
"path.model" = "made"
"path.version" = "1"
"header.X-Expect-Model" = "{sha256}"

[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]

[[operations]]
include-operation-id = ["create_embeddings", "v1_predict", "v2_infer", "v2_infer_version"]
generation.allow-extra-parameters = false
"""


@pytest.mark.parametrize("kind", ["texts", "numbers behind a key"])
def test_the_service_keeps_to_its_document(kind: str, tmp_path: Path) -> None:
    """Every answer has a documented status, media type, headers and body, what the document forbids is refused."""
    path = tmp_path / "made.onnx"
    flags = ["--model", str(path), "--empty-sequences", "zero"]
    config = tmp_path / "schemathesis.toml"
    options = ["--checks", "all", "--exclude-checks", NOT_ASKED, "--request-timeout", str(HANG_SECONDS)]
    options += ["--exclude-operation-id", "v2_repository_unload"]  # or all else would be about no model
    options += ["--max-examples", str(CASES), "--seed", "0", "--continue-on-failure", "--suppress-health-check", "all"]
    if kind == "texts":
        take("texts", path)
    else:
        take("singles", path)
        flags += ["--api-keys", FIRST, "--admin-key", FIRST]
        options += ["--header", f"Authorization: Bearer {FIRST}"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    config.write_text(PARAMETERS.replace("{sha256}", sha256), encoding="utf-8")
    with start_service(*flags) as (_, url):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", *options]
        ran = subprocess.run(
            [*command, f"{url}/openapi.json"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]


def test_the_documents_examples_are_answered(tmp_path: Path) -> None:
    """With several models, each example is answered with 200, and so as the document says."""
    models = tmp_path / "models"
    models.mkdir()
    take("texts", models / "texts.onnx")
    for kind, name in (("pairs", "narrow"), ("quintuples", "wide")):
        take(kind, models / f"{name}.onnx", name=name)
    config = tmp_path / "schemathesis.toml"
    # What one model answered does not go into examples of another.
    config.write_text("[phases.examples]\nextra-data-sources.responses = false\n", encoding="utf-8")
    with start_service("--models", str(models), "--default-model", "wide") as (_, url):
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(config),
            "run",
            "--phases",
            "examples",
            "--checks",
            "all",
        ]
        command += ["--continue-on-failure", "--suppress-health-check", "all", f"{url}/openapi.json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
    assert "Examples" in ran.stdout
    passed = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert passed is not None
    assert passed[1] == passed[2]
    assert int(passed[1]) > 8  # more than there are bodies of one dialect
