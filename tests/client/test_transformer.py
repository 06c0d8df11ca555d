"""The transformer of scikit-learn, over a service and over an artifact in process, by scikit-learn's own checks."""

import copy
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bench.load.launch import start_service
from lengthwise_client import Client, local
from service.encoder.manifest import METADATA_KEY, Manifest
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from tests.conftest import ARTIFACTS, draw_sequences

TRIPLES, SINGLES, TOKENS = (ARTIFACTS / f"{kind}.onnx" for kind in ("triples", "singles", "tokens"))
SEQUENCES = draw_sequences([5, 1, 9, 2, 40, 3, 3, 8, 6, 7, 4, 12])
LABELS = [0, 1] * 6
# scikit-learn's checks give rows of one length, and call it the number of features. Here it is the length of a
# sequence, which may differ from call to call, and that is what these checks refuse.
RAGGED = {
    "check_n_features_in": "it is set to the columns at fit, and sequences have no columns",
    "check_n_features_in_after_fitting": "rows of another length are other features, and here they are encoded",
    "check_transformer_general": "likewise, in its last lines",
}


@pytest.fixture
def kind() -> Any:
    """The class; scikit-learn may not be here."""
    pytest.importorskip("sklearn")
    from lengthwise_client.transformer import LengthwiseTransformer

    return LengthwiseTransformer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a service of triples."""
    with start_service("--model", str(TRIPLES)) as (_, url):
        yield url


def expected(model: Path, sequences: list[Any]) -> bytes:
    """Return the bits that the service's session gives each sequence alone."""
    session = open_session(model)
    return np.concatenate([session.run(pad_batch([steps])) for steps in sequences]).tobytes()


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass_but_those_of_columns(kind: Any) -> None:
    """Every check passes that does not take the length of a row for the number of its features."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    found = checks.check_estimator(kind(artifact=str(SINGLES)), on_fail=None)
    assert {one["check_name"] for one in found if one["status"] == "failed"} == set(RAGGED)
    assert sum(one["status"] == "passed" for one in found) > 35


def test_embeddings_are_the_services_bit_for_bit(kind: Any, url: str) -> None:
    """By a service and in process, whatever the lengths, and scaled to norm 1 if that is asked for."""
    with Client(url) as client:
        scaled = client.encode(SEQUENCES, normalize=True)
    for given in ({"url": url}, {"artifact": TRIPLES}):
        found = kind(**given).fit_transform(SEQUENCES)
        assert found.dtype == np.float32
        assert found.tobytes() == expected(TRIPLES, SEQUENCES)
        np.testing.assert_allclose(kind(**given, normalize=True).fit_transform(SEQUENCES), scaled, rtol=1e-6)


def test_many_sequences_in_process_are_cut_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row i is sequence i's, however they are sorted and cut, and no run is larger than its bound."""
    encoder = local.LocalEncoder(TRIPLES)
    sizes: list[tuple[int, int]] = []
    run = encoder._run

    def note(arrays: list[Any]) -> Any:
        sizes.append((len(arrays), len(arrays) * max(map(len, arrays))))
        return run(arrays)

    monkeypatch.setattr(encoder, "_run", note)
    monkeypatch.setattr(local, "MAX_STEPS", 90)
    many = SEQUENCES * 8
    assert encoder.encode(many).tobytes() == expected(TRIPLES, many)
    assert len(sizes) > 3
    assert all(rows <= local.MAX_ROWS and steps <= 90 for rows, steps in sizes)
    assert encoder.encode([]).shape == (0, 8)


def test_a_pipeline_is_validated_searched_and_pickled(kind: Any) -> None:
    """Cross-validation, a grid over its parameters, and a pickle, all on ragged lists."""
    linear, pipe, choice = (
        pytest.importorskip(f"sklearn.{name}") for name in ("linear_model", "pipeline", "model_selection")
    )
    pipeline = pipe.make_pipeline(kind(artifact=TRIPLES), linear.LogisticRegression())
    assert choice.cross_val_score(pipeline, SEQUENCES, LABELS, cv=3).shape == (3,)
    grid = choice.GridSearchCV(pipeline, {"lengthwisetransformer__normalize": [False, True]}, cv=2)
    assert grid.fit(SEQUENCES, LABELS).best_params_
    again = pickle.loads(pickle.dumps(pipeline.fit(SEQUENCES, LABELS)))  # noqa: S301 - our own
    assert again.predict(SEQUENCES).tolist() == pipeline.predict(SEQUENCES).tolist()
    assert len(pickle.dumps(pipeline[0])) < 1000  # the path alone


def test_embeddings_have_names_and_may_be_a_frame(kind: Any) -> None:
    """`set_output` works, and columns are named after the class."""
    pandas = pytest.importorskip("pandas")
    transformer = kind(artifact=TRIPLES).set_output(transform="pandas")
    frame = transformer.fit_transform(SEQUENCES)
    assert isinstance(frame, pandas.DataFrame)
    assert [*frame.columns] == [f"lengthwisetransformer{place}" for place in range(8)]


def test_sequences_come_in_many_forms(kind: Any) -> None:
    """A list, an array, a frame of sktime, a series of arrays; rows of numbers for a model of one number a step."""
    pandas = pytest.importorskip("pandas")
    transformer = kind(artifact=TRIPLES).fit(SEQUENCES)
    frame = pandas.concat({place: pandas.DataFrame(steps) for place, steps in enumerate(SEQUENCES)})
    assert transformer.transform(frame).tobytes() == expected(TRIPLES, SEQUENCES)
    assert transformer.transform(pandas.Series(SEQUENCES)).tobytes() == expected(TRIPLES, SEQUENCES)
    assert transformer.transform(np.stack([SEQUENCES[0]] * 2)).tobytes() == expected(TRIPLES, [SEQUENCES[0]] * 2)
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    univariate = kind(artifact=SINGLES).fit(rows)
    assert univariate.transform(pandas.DataFrame(rows)).tobytes() == expected(SINGLES, [*rows[:, :, None]])
    ids = [np.array([3, 1]), np.array([2])]
    assert kind(artifact=TOKENS).fit_transform(ids).tobytes() == expected(TOKENS, ids)


@pytest.mark.parametrize(
    ("given", "sequences", "sentence"),
    [
        ({}, SEQUENCES, "give one of url, of a service, and artifact, of a file"),
        ({"url": "http://x", "artifact": TRIPLES}, SEQUENCES, "give one of url"),
        ({"artifact": TRIPLES}, [], "0 sample"),
        ({"artifact": TRIPLES}, [SEQUENCES[0], np.empty((0, 3))], r"sequences\[1\] has no steps"),
        ({"artifact": TRIPLES}, [SEQUENCES[0], SEQUENCES[0] * np.nan], r"sequences\[1\] holds NaN"),
    ],
)
def test_what_cannot_be_encoded_is_refused_at_fit(
    kind: Any, given: dict[str, Any], sequences: list[Any], sentence: str
) -> None:
    """A sentence says which sequence it is, or what must be given."""
    with pytest.raises(ValueError, match=sentence):
        kind(**given).fit(sequences)


def test_nothing_is_encoded_before_fit(kind: Any) -> None:
    """The error is scikit-learn's own, by which its tools tell that `fit` is missing."""
    exceptions = pytest.importorskip("sklearn.exceptions")
    with pytest.raises(exceptions.NotFittedError, match="call fit first"):
        kind(artifact=TRIPLES).transform(SEQUENCES)


def test_a_model_that_changed_after_fit_is_refused(kind: Any, tmp_path: Path) -> None:
    """Embeddings of another model are not what the next step was fitted on; a copy that is fitted anew takes them."""
    path = Path(shutil.copy(TRIPLES, tmp_path / "mine.onnx"))
    transformer = kind(artifact=path).fit(SEQUENCES)
    shutil.copy(ARTIFACTS / "triples-gru.onnx", path)
    with pytest.raises(ValueError, match=r"the model is .*, and at fit it was .*: fit anew"):
        transformer.transform(SEQUENCES)
    assert copy.deepcopy(transformer).fit_transform(SEQUENCES).shape == (12, 8)


def test_a_name_that_the_service_does_not_know_is_told(kind: Any, url: str) -> None:
    """At fit, before anything is sent to be encoded."""
    with pytest.raises(ValueError, match="has no model 'other'"):
        kind(url, model="other").fit(SEQUENCES)


@pytest.mark.parametrize("token", [0, -1])
def test_what_is_not_a_token_id_is_refused_in_process(token: int) -> None:
    """Padding's id, and a negative one, which the graph would count from the end of its table."""
    with pytest.raises(ValueError, match=rf"sequences\[1\] holds {token}, which is not a token id: 0 is padding"):
        local.LocalEncoder(TOKENS).encode([[1, 2], [1, token]])


def test_an_artifact_in_process_is_proven_first(tmp_path: Path) -> None:
    """One whose golden vectors do not come out is refused; one without any is taken."""

    def change(edit: Callable[[Manifest], Manifest] | None) -> Path:
        model = onnx.load(TRIPLES)
        (entry,) = (one for one in model.metadata_props if one.key == METADATA_KEY)
        if edit:
            entry.value = edit(Manifest.model_validate_json(entry.value)).model_dump_json()
        else:
            model.metadata_props.remove(entry)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def swap(manifest: Manifest) -> Manifest:
        first, second, *rest = manifest.golden
        swapped = first.model_copy(update={"embedding": second.embedding})
        return manifest.model_copy(update={"golden": [swapped, second, *rest]})

    with pytest.raises(ValueError, match=r"gives embeddings that differ by .* from the proven ones"):
        local.LocalEncoder(change(swap))
    assert local.LocalEncoder(change(None)).dim == 8


def test_an_artifact_in_process_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime the sentence says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs ONNX Runtime: pip install onnxruntime"):
        local.LocalEncoder(TRIPLES)
