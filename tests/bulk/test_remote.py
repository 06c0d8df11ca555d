"""What a running service encodes for bulk: the same bytes, at the pace that it keeps up with."""

import gzip
import json
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from bench.load.launch import start_service
from bulk.mistakes import BulkError
from bulk.pace import FIRST, Pace
from bulk.remote import RemoteEncoder
from service.settings import Settings
from tests.bulk.command import encode, hash_folder, refuse, write_jsonl, write_parquet
from tests.conftest import draw_sequences
from tests.made import take

COLUMNS = ["x", "y", "z"]  # of the training file


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that gives all outputs."""
    model = take("parts-lstm", tmp_path_factory.mktemp("served") / "parts-lstm.onnx", columns=COLUMNS)
    with start_service("--model", str(model)) as (_, found):
        yield found


@pytest.fixture(scope="module")
def served_texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A service of a model that reads texts, and the model's file."""
    model = take("texts", tmp_path_factory.mktemp("served") / "texts.onnx")
    with start_service("--model", str(model), "--model-name", "made") as (_, found):
        yield found, model


@pytest.fixture
def there(url: str) -> tuple[str, ...]:
    """The flags that have it encode."""
    return ("--url", url, "--model", httpx.get(f"{url}/info").json()["default_model"])


def test_a_service_gives_the_bytes_of_a_local_run(there: tuple[str, ...], tmp_path: Path) -> None:
    """Embeddings, steps, states and problems: no byte of the folder differs, plan and footers included."""
    model = take("parts-lstm", tmp_path / "parts-lstm.onnx", columns=COLUMNS)
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate(draw_sequences([4, 9, 0, 1, 300, 2]))]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    flags = (file, "--outputs", "embedding,steps,state")
    encode(*flags, "-o", tmp_path / "here", "--model", model)
    encode(*flags, "-o", tmp_path / "there", *there)
    assert hash_folder(tmp_path / "there") == hash_folder(tmp_path / "here")
    assert "errors.jsonl" in hash_folder(tmp_path / "there")


def test_columns_are_found_by_the_names_that_the_service_tells(there: tuple[str, ...], tmp_path: Path) -> None:
    """A CSV whose columns are in another order gives the bytes of a local run."""
    (tmp_path / "in.csv").write_text("z,id,order,y,more,x\n3,a,0,2,text,1\n6,a,1,5,text,4\n")
    encode(tmp_path / "in.csv", "-o", tmp_path / "there", *there)
    model = take("parts-lstm", tmp_path / "parts-lstm.onnx", columns=COLUMNS)
    encode(tmp_path / "in.csv", "-o", tmp_path / "here", "--model", model)
    assert hash_folder(tmp_path / "there") == hash_folder(tmp_path / "here")


def test_what_one_began_the_other_goes_on_with(
    there: tuple[str, ...], sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """A service and a local run share the plan, so either finishes what the other left."""
    model = take("parts-lstm", tmp_path / "parts-lstm.onnx", columns=COLUMNS)
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out", *there, "--limit", 5)
    encode(file, "-o", tmp_path / "out", "--model", model)
    encode(file, "-o", tmp_path / "here", "--model", model)
    assert hash_folder(tmp_path / "out") == hash_folder(tmp_path / "here")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-sequence-steps", 9000), "takes 8192 steps, and --max-sequence-steps is more"),
        (("--empty-sequences", "zero"), "refuses empty sequences"),
    ],
)
def test_limits_beyond_the_services_are_refused(
    flags: tuple[object, ...],
    said: str,
    there: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """Before anything is sent."""
    file = write_parquet(tmp_path / "in.parquet", draw_sequences([2]))
    assert said in refuse(file, "-o", tmp_path / "out", *there, *flags)


def test_a_model_that_is_not_served_is_named(
    there: tuple[str, ...], sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """And where the names of those that are can be read."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    assert "has no model 'other'" in refuse(file, "-o", tmp_path / "out", *there, "--model", "other")


TEXTS = ["so it goes", "it", "", "so " * 30, "goes it", "it goes so it goes"] * 3


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv.gz"])
def test_texts_are_encoded_as_here(kind: str, served_texts: tuple[str, Path], tmp_path: Path) -> None:
    """A service's tokenizer makes the ids of a local run, so that no byte differs: an empty or long text is told, too.

    What a service began, a local run may end.
    """
    url, model = served_texts
    file = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        write_jsonl(file, [{"id": row, "text": text} for row, text in enumerate(TEXTS)])
    else:
        text = "".join(f"{line}\n" for line in (TEXTS if kind == "txt" else ["text", *(f'"{one}"' for one in TEXTS)]))
        file.write_bytes(text.encode() if kind == "txt" else gzip.compress(text.encode()))
    flags = (file, "--sequence", "text", "--max-sequence-steps", 20)
    encode(*flags, "-o", tmp_path / "here", "--model", model)
    there = ("--url", url, "--model", "made")
    encode(*flags, "-o", tmp_path / "there", *there)
    encode(*flags, "-o", tmp_path / "both", *there, "--limit", 1)
    encode(*flags, "-o", tmp_path / "both", "--model", model)
    expected = hash_folder(tmp_path / "here")
    assert hash_folder(tmp_path / "there") == hash_folder(tmp_path / "both") == expected
    told = [json.loads(line)["problem"]["type"] for line in (tmp_path / "there/errors.jsonl").read_text().splitlines()]
    assert {one.rpartition(":")[2] for one in told} == {"empty-sequence", "sequence-too-long"}


class Watching(Pace):
    """A pace that keeps what became of its limit."""

    seen: ClassVar[list[tuple[str, float]]] = []

    def refuse(self, began: float) -> None:
        """Keep the limit after a refusal."""
        super().refuse(began)
        self.seen.append(("refused", self.limit))

    def answer(self, seconds: float, size: int) -> None:
        """Keep the limit after an answer."""
        super().answer(seconds, size)
        self.seen.append(("answered", self.limit))


def test_a_service_that_refuses_for_a_while_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """It answers 429 and when to come back; the pace halves, the client waits, and the pace rises again."""
    monkeypatch.setattr("bulk.remote.Pace", Watching)
    monkeypatch.setattr("bulk.pace.SLOW_TIMES", inf)  # a busy machine is slow, too
    monkeypatch.setenv("LENGTHWISE_STEPS_PER_SECOND", "100")
    monkeypatch.setenv("LENGTHWISE_API_KEYS", "a-key-of-a-caller")
    file = write_parquet(tmp_path / "in.parquet", sequences * 2)
    model = take("parts-lstm", tmp_path / "parts-lstm.onnx", columns=COLUMNS)
    encode(file, "-o", tmp_path / "here", "--model", model)
    with start_service("--model", str(model), "--model-name", "made") as (_, url):
        encode(file, "-o", tmp_path / "there", "--url", url, "--model", "made", "--key", "a-key-of-a-caller")
    assert hash_folder(tmp_path / "there") == hash_folder(tmp_path / "here")
    first = next(place for place, (what, _) in enumerate(Watching.seen) if what == "refused")
    before, low = Watching.seen[first - 1][1], Watching.seen[first][1]
    assert low == max(1.0, before / 2) < before
    assert Watching.seen[-1][0] == "answered"
    assert Watching.seen[-1][1] > min(limit for _, limit in Watching.seen)


INFO = {
    "default_model": "m",
    "settings": {
        "max_sequence_steps": 8192,
        "max_request_steps": 100_000,
        "max_queue_steps": 1_000_000,
        "max_body_bytes": 2**26,
        "empty_sequences": "refuse",
    },
    "models": [
        {
            "name": "m",
            "names": ["m"],
            "sha256": "a",
            "outputs": ["embedding"],
            "dim": 2,
            "features": 3,
            "vocabulary": None,
            "reads": ["sequences"],
        }
    ],
}


def open_remote(answer: Callable[[httpx.Request], httpx.Response]) -> RemoteEncoder:
    """Open a service that this function is."""

    def route(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=INFO) if request.url.path == "/info" else answer(request)

    return RemoteEncoder("http://service", None, "secret", Settings().limits, httpx.MockTransport(route))


def test_another_model_in_the_middle_ends_it() -> None:
    """Embeddings of two models are never mixed; the sentence names both."""
    with pytest.raises(BulkError, match="changed its model from a to b"):
        open_remote(lambda _: httpx.Response(200, headers={"X-Model-Sha": "b"}))


def test_a_key_that_is_refused_ends_it() -> None:
    """The sentence is the service's own; the key is sent as the client sends it."""
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["authorization"])
        problem = {"type": "x", "title": "No such key", "status": 401, "detail": "It is not known."}
        return httpx.Response(401, content=json.dumps(problem), headers={"content-type": "application/problem+json"})

    with pytest.raises(BulkError, match="It is not known"):
        open_remote(answer)
    assert keys == ["Bearer secret"]


def test_the_pace_rises_by_one_a_round_and_halves_once_a_refusal() -> None:
    """Refusals of requests that were sent before it was halved do not halve it again."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    for _ in range(200):
        pace.answer(1.0, 100)
    high = pace.limit
    assert high > 5 * FIRST
    now[0] = 10.0
    for began in (9.0, 9.5):
        pace.refuse(began)
    assert pace.limit == high / 2
    now[0] = 20.0
    pace.refuse(11.0)
    assert pace.limit == high / 4


def test_the_pace_falls_while_answers_are_slow() -> None:
    """What takes many times as long a byte as the quickest only waited; one is always under way."""
    pace = Pace()
    pace.answer(0.1, 100)
    for _ in range(1000):
        pace.answer(1.0, 100)
    assert pace.limit == 1.0
    for _ in range(2):  # room for one is given back
        with pace.hold():
            pass
