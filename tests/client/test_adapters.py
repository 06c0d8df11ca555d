"""What aeon, tslearn, sktime, torch and TensorFlow hold sequences in comes out as it was, each by the real library."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lengthwise_client import from_aeon, from_sktime, from_tf_ragged, from_torch, from_tslearn
from tests.conftest import draw_sequences
from tests.relay import Relay

SEQUENCES = [steps.astype(np.float64) for steps in draw_sequences([4, 1, 7, 2])]
LENGTHS = [len(steps) for steps in SEQUENCES]


def assert_same(found: list[npt.NDArray[Any]], meant: list[npt.NDArray[Any]]) -> None:
    """Hold that these are the same arrays: their number, shapes, kinds and bits."""
    assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in meant]
    assert [one.tobytes() for one in found] == [one.tobytes() for one in meant]


def pad() -> npt.NDArray[np.float64]:
    """Return the sequences in one array, with steps of NaN behind the shorter ones."""
    padded = np.full((len(SEQUENCES), max(LENGTHS), 3), np.nan)
    for row, steps in zip(padded, SEQUENCES, strict=True):
        row[: len(steps)] = steps
    return padded


def test_series_of_aeon_are_turned() -> None:
    """A list of `(channels, time)` and an array of them come out with the time first."""
    assert_same(from_aeon([steps.T for steps in SEQUENCES]), SEQUENCES)
    assert_same(from_aeon(np.stack([SEQUENCES[2].T] * 2)), [SEQUENCES[2]] * 2)
    assert_same(from_aeon([SEQUENCES[0][:, 0]]), [SEQUENCES[0][:, :1]])
    with pytest.raises(ValueError, match=r"collection\[1\] has the shape \(1, 2, 3\)"):
        from_aeon([SEQUENCES[0].T, np.zeros((1, 2, 3))])


def test_series_that_aeon_made_are_turned() -> None:
    """Its own maker of unequal series, and its own conversion of equal ones."""
    generation = pytest.importorskip("aeon.testing.data_generation", exc_type=ImportError)
    conversion = pytest.importorskip("aeon.utils.conversion", exc_type=ImportError)
    made, _ = generation.make_example_3d_numpy_list(n_cases=5, n_channels=3, min_n_timepoints=4, max_n_timepoints=9)
    assert len({one.shape for one in made}) > 1
    assert_same(from_aeon(made), [np.ascontiguousarray(one.T) for one in made])
    equal = conversion.convert_collection([steps[:1].T for steps in SEQUENCES], "numpy3D")
    assert_same(from_aeon(equal), [steps[:1] for steps in SEQUENCES])


def test_series_of_tslearn_end_before_their_padding() -> None:
    """Steps of NaN at the end are cut off; a NaN before them, or beside a number, stays."""
    assert_same(from_tslearn(pad()), SEQUENCES)
    holed = pad()
    holed[0, 1], holed[0, 3, 2] = np.nan, np.nan
    assert_same(from_tslearn(holed)[:1], [holed[0, :4]])
    assert_same(from_tslearn([[1.0, 2.0, np.nan], [np.nan] * 3]), [np.array([[1.0], [2.0]]), np.empty((0, 1))])
    with pytest.raises(ValueError, match=r"the shape \(2,\): expected"):
        from_tslearn([1.0, 2.0])


def test_series_that_tslearn_padded_come_out_whole() -> None:
    """What its `to_time_series_dataset` makes of lists is undone."""
    tslearn = pytest.importorskip("tslearn.utils")
    assert_same(from_tslearn(tslearn.to_time_series_dataset(SEQUENCES)), SEQUENCES)


def test_frames_of_sktime_are_cut_by_their_index() -> None:
    """Instances keep the order they come in, whatever they are called and however many levels name them."""
    pandas = pytest.importorskip("pandas")
    names = ["b", "a", "d", "c"]
    frame = pandas.concat({name: pandas.DataFrame(steps) for name, steps in zip(names, SEQUENCES, strict=True)})
    assert_same(from_sktime(frame), SEQUENCES)
    mixed = frame.iloc[np.argsort([time for _, time in frame.index], kind="stable")]  # step by step of all
    assert_same(from_sktime(mixed), SEQUENCES)
    assert_same(from_sktime(pandas.concat({"x": frame, "y": frame})), [*SEQUENCES, *SEQUENCES])
    assert from_sktime(frame.iloc[:0]) == []
    with pytest.raises(ValueError, match="the frame's index has one level"):
        from_sktime(pandas.DataFrame(SEQUENCES[0]))


class Index:
    """The part of a pandas index that is asked for; its labels are tuples."""

    def __init__(self, labels: list[tuple[Any, ...]]) -> None:
        self._labels = labels
        self.nlevels = len(labels[0])

    def droplevel(self, level: int) -> "Index":
        """Return an index without a level, counted from the end."""
        return Index([label[:level] + label[len(label) + level + 1 :] for label in self._labels])

    def factorize(self) -> tuple[npt.NDArray[np.intp], list[tuple[Any, ...]]]:
        """Return each label's number, in the order in which they first come, and the labels."""
        numbers = {label: number for number, label in enumerate(dict.fromkeys(self._labels))}
        return np.array([numbers[label] for label in self._labels]), [*numbers]


def test_frames_are_cut_where_pandas_is_not_installed() -> None:
    """A frame is asked for its index and its numbers alone, and pandas is never imported."""
    rows = [
        (name, time, step) for name, steps in zip("badc", SEQUENCES, strict=True) for time, step in enumerate(steps)
    ]
    rows.sort(key=lambda row: row[1])  # step by step of all
    steps = np.array([step for *_, step in rows])
    for labels in ([(name, time) for name, time, _ in rows], [("x", name, time) for name, time, _ in rows]):
        assert_same(from_sktime(SimpleNamespace(index=Index(labels), to_numpy=lambda: steps)), SEQUENCES)


@pytest.mark.filterwarnings("ignore")
def test_frames_that_sktime_made_are_cut_as_it_would() -> None:
    """Its own conversion of a nested list and ours of its multi-index frame give the same arrays."""
    datatypes = pytest.importorskip("sktime.datatypes")
    pandas = pytest.importorskip("pandas")
    frame = datatypes.convert_to([pandas.DataFrame(steps) for steps in SEQUENCES], "pd-multiindex")
    assert_same(from_sktime(frame), SEQUENCES)


def test_tensors_are_cut_and_packed_sequences_taken_apart() -> None:
    """By padded tensors of both orders, and by packed ones whether torch sorted them or not."""
    torch = pytest.importorskip("torch")
    rnn = torch.nn.utils.rnn
    tensors = [torch.from_numpy(steps).requires_grad_() for steps in SEQUENCES]
    for batch_first in (True, False):
        padded = rnn.pad_sequence(tensors, batch_first=batch_first)
        assert_same(from_torch(padded, torch.tensor(LENGTHS), batch_first=batch_first), SEQUENCES)
        packed = rnn.pack_padded_sequence(padded, LENGTHS, batch_first=batch_first, enforce_sorted=False)
        assert_same(from_torch(packed), SEQUENCES)
    longest_first = sorted(SEQUENCES, key=len, reverse=True)
    assert_same(from_torch(rnn.pack_sequence([torch.from_numpy(steps) for steps in longest_first])), longest_first)
    ids = [np.array([3, 1]), np.array([2, 2, 9])]
    assert_same(from_torch(rnn.pack_sequence([torch.from_numpy(one) for one in ids], enforce_sorted=False)), ids)
    assert_same(from_torch(torch.ones(2, 5, 3)), [np.ones((5, 3), np.float32)] * 2)
    half = torch.tensor([[[0.5]]], dtype=torch.bfloat16)
    assert_same(from_torch(half), [np.array([[0.5]], np.float32)])


def test_packed_sequences_are_taken_apart_where_torch_is_not_installed() -> None:
    """The steps of time 0 come first, the longest sequence's before the others'; then they get their places back."""
    order = sorted(range(4), key=lambda row: -LENGTHS[row])
    steps = [SEQUENCES[row][time] for time in range(max(LENGTHS)) for row in order if time < LENGTHS[row]]
    packed = SimpleNamespace(
        data=np.array(steps),
        batch_sizes=np.array([sum(time < length for length in LENGTHS) for time in range(max(LENGTHS))]),
        unsorted_indices=np.argsort(order),
    )
    assert_same(from_torch(packed), SEQUENCES)
    packed.unsorted_indices = None
    assert_same(from_torch(packed), [SEQUENCES[row] for row in order])


@pytest.mark.parametrize("lengths", [[4, 1, 7], [4, 1, 8, 2], [4, -1, 7, 2]])
def test_lengths_of_other_tensors_are_refused(lengths: list[int]) -> None:
    """There must be one for each sequence, from 0 to the steps there are."""
    with pytest.raises(ValueError, match="are not those of 4 sequences of up to 7 steps"):
        from_torch(pad(), lengths)


def test_ragged_tensors_are_cut_by_their_splits() -> None:
    """Values and splits of a ragged tensor, as TensorFlow has them; empty rows too."""
    values, splits = np.concatenate(SEQUENCES), np.cumsum([0, *LENGTHS])
    assert_same(from_tf_ragged(values, splits), SEQUENCES)
    ids = from_tf_ragged([5, 6, 7], [0, 0, 2, 2, 3])
    assert [one.tolist() for one in ids] == [[], [5, 6], [], [7]]
    assert from_tf_ragged(np.empty((0, 3)), [0]) == []


@pytest.mark.parametrize("splits", [[1, 3], [0, 2], [0, 4], [0, 2, 1, 3], [], [[0, 3]]])
def test_splits_of_other_values_are_refused(splits: Any) -> None:
    """They must rise from 0 to the number of steps."""
    with pytest.raises(ValueError, match="row_splits do not cut 3 steps"):
        from_tf_ragged([5, 6, 7], splits)


def test_what_an_adapter_gives_is_encoded_bit_for_bit(client: Any) -> None:
    """Turned views of aeon's arrays and cuts of padded ones have the embeddings of the sequences themselves."""
    with Relay(client).connect() as connected:
        expected = connected.encode(SEQUENCES).tobytes()
        assert connected.encode(from_aeon([steps.T.copy() for steps in SEQUENCES])).tobytes() == expected
        assert connected.encode(from_tslearn(pad())).tobytes() == expected
