"""What several test files share: a small encoder with random weights, exported, and the app that serves it.

Nothing here imports torch, so that the service's tests run on any Python the service runs on.
"""

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings

# Examples are the same in every run, and slow first calls (a kernel's warm-up) are not a failure.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2000)  # --hypothesis-profile=fuzz
hypothesis.settings.load_profile("suite")

# A busy machine may take longer for an answer than the 5 s after which httpx gives up.
_PATIENCE = httpx._config.DEFAULT_TIMEOUT_CONFIG
_PATIENCE.connect = _PATIENCE.read = _PATIENCE.write = _PATIENCE.pool = 60.0

FEATURES = 3
ARTIFACTS = Path("tests/artifacts")
MADE = ARTIFACTS / "made.onnx"


# These tests need torch, and are left out without it: of learning, of exporting, and of the pages about both.
NEED_TORCH = ["model", "export", "project/test_docs.py", "project/test_tutorials.py"]
collect_ignore = [] if find_spec("torch") else NEED_TORCH


def pytest_unconfigure() -> None:
    """Say at the very end what was left out."""
    if collect_ignore:
        left = ", ".join(f"tests/{name}" for name in NEED_TORCH)
        print(f"\nNot run, since torch is not installed for this Python: {left}.")  # noqa: T201 - the last word


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the option of tests/project/test_surface.py."""
    parser.addoption("--write-surface", action="store_true", help="write down the public surface as it is now")


def draw_sequences(lengths: list[int], features: int = FEATURES, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """Draw sequences of the given lengths."""
    draw = np.random.default_rng(seed)
    return [draw.standard_normal((length, features)).astype(np.float32) for length in lengths]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of two layers, a copy of the one that is checked in."""
    return Path(shutil.copy(MADE, tmp_path_factory.mktemp("artifacts")))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements are kept for the session, and never where the user keeps theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """What a program sets for its whole process, called by a test, is as it was before for the next test.

    Handlers of the log are forgotten: a new configuration closes all that are known, and absl's, which Keras brings,
    closes what was standard error when it was imported, which is pytest's.
    """
    vars(logging)["_handlerList"].clear()
    handled = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    interval, loggers = sys.getswitchinterval(), [logging.getLogger(), logging.getLogger("lengthwise")]
    logged = [(logger, logger.level, [*logger.handlers]) for logger in loggers]
    yield
    for number, handler in handled.items():
        signal.signal(number, handler)
    sys.setswitchinterval(interval)
    for logger, level, handlers in logged:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def serve(artifact: Path) -> Iterator[Callable[..., TestClient]]:
    """Start the app on the made artifact with the given settings, as often as a test likes."""
    clients: list[TestClient] = []

    def start(**settings: object) -> TestClient:
        app = create_app(Settings(model=artifact, **settings))  # type: ignore[arg-type]
        client = TestClient(app, raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    """The app with default settings."""
    return serve()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody signed, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl makes the certificate")
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file, key
