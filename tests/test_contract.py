"""The service keeps to its OpenAPI document, over a socket, whatever is sent: judged by schemathesis.

In the suite each operation gets some cases; `pytest tests/test_contract.py --hypothesis-profile=fuzz` tries thousands.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from bench.load.launch import start_service
from model.encoder import EncoderConfig
from tests.made import export_made, export_texts
from tests.test_keys import FIRST

CASES = 500 if hypothesis.settings.get_current_profile_name() == "fuzz" else 2  # of each operation, and boundary cases
# That all is accepted which the document allows is not asked: no schema can say which lengths fit which sequences.
NOT_ASKED = "positive_data_acceptance"
HANG_SECONDS = 30  # for any answer


# Or all would be about unknown models or others than expected, and a deadline of 1 ms is a 504, which is documented and
# taken for a fault.
PARAMETERS = """[parameters]
"path.model" = "made"
"path.version" = "1"
"header.X-Request-Timeout-Ms" = "60000"
"header.X-Expect-Model" = "{sha256}"
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
        export_texts(path)
    else:
        export_made(path, EncoderConfig(features=1, hidden=2))
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
