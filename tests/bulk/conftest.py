"""What every test of bulk gets."""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pytest
from pyarrow import fs

from bulk.sources import wanted
from bulk.stores import Place, open_place
from tests.bulk.command import LENGTHS
from tests.conftest import draw_sequences


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some steps, so that few rows make several."""
    monkeypatch.setattr(wanted, "SHARD_BYTES", 700)


@pytest.fixture
def sequences() -> list[npt.NDArray[np.float32]]:
    """Sequences of lengths that are out of order."""
    return draw_sequences(LENGTHS)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A server that speaks S3, with a bucket `made`; the environment in which bulk finds it, empty if there is none."""
    if find_spec("moto") is None:
        yield {}
        return
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    made.start()
    address = "{}:{}".format(*made.get_host_and_port())
    options = f"endpoint_override={address}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    fs.FileSystem.from_uri(f"s3://a:b@made?{options}")[0].create_dir("made")
    yield {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    made.stop()


@pytest.fixture
def bucket(store: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    """A folder of the bucket for this test alone."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return open_place(f"s3://made/{request.node.name}")
