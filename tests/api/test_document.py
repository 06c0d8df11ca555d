"""The OpenAPI document is of what is served: each of its examples works as it stands."""

import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.encoder.sequences import Tokens
from service.settings import SHIPPED_MODEL, Settings
from tests.api.test_keys import FIRST, SECOND, bearing
from tests.encoder.test_session import edit
from tests.made import take


def put_floats(folder: Path) -> Path:
    """Put an encoder of three features there."""
    return take("triples", folder / "floats.onnx", name="triples")


def put_bare(folder: Path) -> Path:
    """Make an artifact that has no manifest, and so no golden vectors."""
    path = take("pairs", folder / "bare.onnx")
    path.write_bytes(edit(path, lambda model: model.ClearField("metadata_props")))
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "floats": (put_floats, {}),
    "the shipped one": (lambda _: SHIPPED_MODEL, {}),
    "no manifest": (put_bare, {}),
    "tokens": (lambda folder: take("tokens", folder / "t.onnx", name="t"), {}),
    "texts": (lambda folder: take("texts", folder / "texts.onnx"), {}),
    "states": (lambda folder: take("parts-lstm", folder / "s.onnx"), {}),
    "one step at most": (put_floats, {"max_sequence_steps": 1, "max_request_steps": 1}),
}


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    """The app with one encoder, of each kind there is."""
    export, settings = KINDS[request.param]
    folder = tmp_path / "one"
    folder.mkdir()
    with TestClient(create_app(Settings(model=export(folder), **settings))) as client:
        yield client


@pytest.fixture
def several(tmp_path: Path) -> Iterator[TestClient]:
    """The app with encoders of every kind, two versions of one of them, and no default."""
    for name, kind in (("wide", "quintuples"), ("narrow", "pairs")):
        take(kind, tmp_path / f"{name}.onnx", name=name)
    take("quintuples", tmp_path / "wide2.onnx", name="wide", version="2")
    take("texts", tmp_path / "texts.onnx")
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        yield client


def ask_as_shown(client: TestClient, document: dict[str, Any]) -> dict[str, int]:
    """Send every example of the document; return how many each operation has."""
    sent: dict[str, int] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = re.findall(r"{(\w+)}", path)
            queries = [
                one["name"] for one in operation.get("parameters", ()) if one["in"] == "query" and "examples" in one
            ]
            shown = {one["name"]: one.get("examples", {}) for one in operation.get("parameters", ())}
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = [example["value"] for example in content.get("examples", {}).values()] or [None]
            for *values, body in product(*(shown[name].values() for name in (*names, *queries)), bodies):
                given = {name: one["value"] for name, one in zip((*names, *queries), values, strict=True)}
                filled = path.format(**given)
                response = client.request(method, filled, json=body, params={name: given[name] for name in queries})
                if body is None and content.get("schema", {}).get("$ref"):
                    continue  # a body that is not shown
                assert response.status_code == 200, (filled, body, response.text)
                sent[operation["operationId"]] = sent.get(operation["operationId"], 0) + 1
    return sent


def read_document(client: TestClient) -> dict[str, Any]:
    """Read the document."""
    return dict(client.get("/openapi.json").json())


def test_every_example_is_answered(one: TestClient) -> None:
    """Bodies and names are the model's own, whatever it reads, with golden vectors or without."""
    sent = ask_as_shown(one, read_document(one))
    assert all(sent[operation] >= 1 for operation in ("encode", "create_embeddings", "get_model", "v2_model_stats"))
    assert sent["v2_infer"] == sent["v2_infer_version"] >= 2


def test_every_example_of_several_models_is_answered(several: TestClient) -> None:
    """Each model has its own, and if a path and a body must fit they do."""
    document = read_document(several)
    sent = ask_as_shown(several, document)
    assert (sent["encode"], sent["create_embeddings"]) == (4, 4)  # sequences for each of three, and texts for one
    names = ["made", "narrow", "wide", "wide@1", "wide@2"]
    (parameter,) = document["paths"]["/v1/models/{model}"]["get"]["parameters"]
    assert [example["value"] for example in parameter["examples"].values()] == names
    assert sent["get_model"] == len(names)


def test_examples_of_a_golden_vector_are_its_beginning(tmp_path: Path) -> None:
    """They are what the encoder was proven on, to four digits."""
    with TestClient(create_app(Settings(model=put_floats(tmp_path)))) as client:
        shown = read_document(client)["paths"]["/encode"]["post"]["requestBody"]["content"]["application/json"]
        manifest = client.app.state.service.models.find(None).session.manifest  # type: ignore[attr-defined]
        (body,) = [example["value"] for example in shown["examples"].values()]
    golden = [vector.sequence.array() for vector in manifest.golden if len(vector.sequence.array())]
    first = [steps[:length].round(4).tolist() for steps, length in zip(golden, (3, 2), strict=False)]
    assert len(body["sequences"]) == len(first)
    for sequence, steps in zip(body["sequences"], first, strict=True):
        assert sequence == [pytest.approx(step, abs=1e-4) for step in steps]


def widths(document: dict[str, Any]) -> list[Any]:
    """Return the bounds of a step, or of a token id, in each kind of sequence that `/encode` takes."""
    kinds = document["components"]["schemas"]["EncodeRequest"]["properties"]["sequences"]["anyOf"]
    return [{**kind["items"]["items"], "items": None} for kind in kinds]


def test_schemas_have_the_width_that_all_models_agree_on(one: TestClient, several: TestClient) -> None:
    """Of one model a step has its bounds; of several that differ it has none, and of no kind that nobody reads."""
    (kind,) = widths(read_document(one))
    (spec,) = [model.spec for model in one.app.state.service.models]  # type: ignore[attr-defined]
    if isinstance(spec.kind, Tokens):
        assert (kind["type"], kind["minimum"], kind["maximum"]) == ("integer", 0, (spec.kind.vocabulary or 0) - 1)
    else:
        assert (kind["type"], kind["minItems"], kind["maxItems"]) == ("array", spec.kind.features, spec.kind.features)
    floats, tokens = widths(read_document(several))
    assert floats == {"type": "array", "items": None}
    assert tokens == {"type": "integer", "minimum": 0, "maximum": 3, "items": None}
    for client, reads_texts in ((several, True), (one, spec.tokenize is not None)):
        kinds = read_document(client)["components"]["schemas"]["EmbeddingsRequest"]["properties"]["input"]["anyOf"]
        assert ({"type": "string"} in kinds) == reads_texts


def test_the_document_follows_the_models(tmp_path: Path) -> None:
    """It is written anew when a model comes or goes, and only then; without any it has no examples."""
    folder = tmp_path / "models"
    folder.mkdir()
    take("pairs", tmp_path / "b.onnx", name="b")
    with TestClient(create_app(Settings(models=folder, admin_key=SECOND))) as client:
        document = client.app.state.service.document  # type: ignore[attr-defined]

        def shown() -> set[str]:
            content = read_document(client)["paths"]["/encode"]["post"]["requestBody"]["content"]["application/json"]
            return {name.partition(":")[0] for name in content.get("examples", {})}

        assert shown() == set()
        put_floats(folder)
        assert client.post("/v2/repository/models/triples/load", headers=bearing(SECOND)).status_code == 200
        assert shown() == {"triples"}
        (tmp_path / "b.onnx").rename(folder / "b.onnx")
        assert client.post("/v2/repository/models/b/load", headers=bearing(SECOND)).status_code == 200
        assert shown() == {"triples", "b"}
        assert client.post("/v2/repository/models/triples/unload", headers=bearing(SECOND)).status_code == 200
        assert shown() == {"b"}
        assert document.write() is document.write()
        assert (
            "examples" not in document.plain["paths"]["/encode"]["post"]["requestBody"]["content"]["application/json"]
        )


def test_strangers_are_told_of_no_model(tmp_path: Path) -> None:
    """Where keys are asked for, the document has examples and bounds for who brings one, and no others."""
    settings = Settings(model=put_floats(tmp_path), api_keys=FIRST)
    with TestClient(create_app(settings)) as client:
        for headers in ({}, bearing("another-key-for-tests")):
            stranger = client.get("/openapi.json", headers=headers)
            assert stranger.status_code == 200
            assert "triples" not in stranger.text
            assert '"maxItems":3' not in stranger.text
        told = client.get("/openapi.json", headers=bearing(FIRST))
        assert (told.status_code, told.headers["vary"]) == (200, "Authorization")
        assert "triples: sequences" in told.text
        assert '"maxItems":3' in told.text
