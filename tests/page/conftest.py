"""What all visits share: one browser, and the service with the shipped encoder."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.app import create_app
from service.settings import SHIPPED_MODEL, Settings
from tests.listening import listen
from tests.page.browser import open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all visits."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    """The address of a service with the shipped encoder, of 12 features."""
    with listen(create_app(Settings(model=SHIPPED_MODEL, log_requests=False))) as address:
        yield f"http://{address}/"
