"""How many steps a second each key may send."""

import json

import pytest
from pydantic import ValidationError

from service.api import meter as metering
from service.api.meter import StepMeter
from service.errors import RateExceeded
from service.settings import Settings
from tests.api.test_encode import PAIR, Serve
from tests.api.test_keys import FIRST, SECOND, Clock, bearing


def test_a_key_may_send_its_rate_over_time() -> None:
    """Whoever is behind by more than a second's steps waits exactly as long as those take, at any size of request."""
    clock = Clock()
    meter = StepMeter(100, clock=clock)
    meter.charge(b"one", 100)
    meter.admit(b"one")  # a second's steps may be ahead
    meter.charge(b"one", 250)
    with pytest.raises(RateExceeded) as caught:
        meter.admit(b"one")
    assert caught.value.retry_after_seconds == 3  # 3.5 s of steps, of which 1 s may be ahead
    assert meter.wait(b"one") == 2.5
    meter.admit(b"two")  # another key
    clock.now = 2.5
    meter.admit(b"one")
    clock.now = 100
    meter.charge(b"one", 100)
    assert meter.wait(b"one") == 0.0  # what was not used is not saved up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every meter that is made."""
    clock = Clock()
    monkeypatch.setattr(metering.StepMeter.__init__, "__defaults__", (clock,))
    return clock


def test_a_key_over_its_rate_gets_429(serve: Serve, clock: Clock) -> None:
    """It is told when to come back, others are served, and when it comes back it is, too."""
    client = serve(api_keys=f"{FIRST},{SECOND}", steps_per_second=2)
    body = {"sequences": PAIR}  # 4 steps
    assert client.post("/encode", json=body, headers=bearing(FIRST)).status_code == 200
    refused = client.post("/encode", json=body, headers=bearing(FIRST))
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:lengthwise:problem:rate-exceeded"
    assert (refused.headers["retry-after"], refused.json()["limit"]) == ("1", 2)
    assert client.post("/encode", json=body, headers=bearing(SECOND)).status_code == 200
    assert client.get("/info", headers=bearing(FIRST)).status_code == 200
    clock.now += 1
    assert client.post("/encode", json=body, headers=bearing(FIRST)).status_code == 200


def test_a_stream_waits_for_its_rate(serve: Serve) -> None:
    """Its lines are answered all the same, none refused."""
    client = serve(api_keys=FIRST, steps_per_second=1000)
    lines = b"".join(b"%s\n" % json.dumps(steps).encode() for steps in PAIR * 150)
    headers = {**bearing(FIRST), "Content-Type": "application/x-ndjson"}
    answers = client.post("/encode", content=lines, headers=headers).text.splitlines()
    assert len(answers) == 300
    assert all("embedding" in json.loads(line) for line in answers)
    meter = client.app.state.service.meter  # type: ignore[attr-defined]
    assert sum(paid > 0 for paid in meter._rates._paid) == 1


def test_a_rate_needs_keys() -> None:
    """Without keys there is nobody to count for, and the start ends in a sentence."""
    with pytest.raises(ValidationError, match="neither api_keys nor api_keys_file"):
        Settings(steps_per_second=5)
