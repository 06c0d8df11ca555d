"""The manifest an artifact carries in its ONNX metadata: what the encoder is, and the proof that it is so.

An artifact is one ONNX file. Its metadata entry `lengthwise` holds this manifest as JSON, golden vectors included, so
that whoever serves the file can replay what was proven when it was written.
"""

import base64
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import ArtifactError
from service.settings import NAME

METADATA_KEY = "lengthwise"
MAX_SUMMARY_BYTES = 2**20  # of what `/info` repeats; the names of ten thousand classes take a third


class Record(BaseModel):
    """A frozen part of the manifest; fields of later writers are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Tensor(Record):
    """An array, exactly: its kind, its shape, and its little-endian bytes in base64."""

    dtype: Literal["<f4", "<i8"] = "<f4"
    shape: tuple[int, ...]
    base64: str

    @classmethod
    def of(cls, array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> "Tensor":
        """Store an array of any shape, of float32 or int64."""
        dtype: Literal["<f4", "<i8"] = "<i8" if array.dtype == np.int64 else "<f4"
        return cls(dtype=dtype, shape=array.shape, base64=base64.b64encode(array.astype(dtype).tobytes()).decode())

    def array(self) -> Any:
        """Return the array as it was stored.

        Raises:
            ValueError: shape and bytes disagree.
        """
        stored = np.frombuffer(base64.b64decode(self.base64), self.dtype)
        return stored.astype(stored.dtype.newbyteorder("=")).reshape(self.shape)


class Golden(Record):
    """A sequence, `(t, F)` or `(t,)` token ids, and the embedding `(D,)` its encoder gave when it was exported."""

    sequence: Tensor
    embedding: Tensor


class Input(Record):
    """What one step is.

    Attributes:
        kind: `features`, numbers; `tokens`, ids; or `text`, ids that `tokenizer` makes of strings.
        features: F, if steps are numbers.
        vocabulary: V, if they are ids: each is in `1..V-1`, and 0 is padding.
        tokenizer: of texts, as the JSON of the `tokenizers` library.
        columns: the names of the F numbers, in order, if the training file had them; empty otherwise.
    """

    kind: Literal["features", "tokens", "text"]
    features: int | None = Field(None, ge=1)
    vocabulary: int | None = Field(None, ge=2)
    tokenizer: str | None = Field(None, repr=False)
    columns: list[str] = []


class Statistics(Record):
    """The standardisation inside the graph, fitted on the training sequences.

    Attributes:
        mean: one number a feature.
        std: one number a feature.
    """

    mean: list[float]
    std: list[float]


class TaskRecord(Record):
    """What the encoder was trained to do, and how well it did.

    Attributes:
        name: the task, as `--task` has it.
        dataset: the data set's name.
        classes: the label of each class; empty if labels are not classes.
        metrics: measured on held-out sequences, by name.
    """

    name: str
    dataset: str
    classes: list[str]
    metrics: dict[str, float]


class Prediction(Record):
    """What the graph's output `logits`, `(K,)` for a sequence, means.

    Attributes:
        kind: `class`, the scores of classes; `number`, one number in the units of the training targets; or `token`, the
            scores of each token id to come next.
        labels: K names of classes; empty if it does not score classes.
    """

    kind: Literal["class", "number", "token"]
    labels: list[str] = []


class ParityCheck(Record):
    """One claim of the export proof, with the largest difference found.

    Attributes:
        claim: what was proven, in words.
        cases: comparisons made.
        max_difference: the largest of them.
        tolerance: the most that the proof allows.
    """

    claim: str
    cases: int
    max_difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within tolerance; NaN is not."""
        return self.max_difference <= self.tolerance


class Quantization(Record):
    """What turning float32 weights to int8 cost, measured at export on held-out sequences.

    Attributes:
        operator: that runs in place of the float32 one.
        sequences: how many were compared.
        max_error: largest difference of any number in an embedding to float32's.
        mean_error: mean of these differences.
        cosine_p1: cosine of an embedding to float32's that one in a hundred stays below.
        cosine_median: cosine that half stay below.
        accuracy_before: of the task's head on float32 embeddings, if it classifies.
        accuracy_after: of the same head on these.
        speed_up: throughput over float32's on `cpu`, one thread, length-sorted batches.
        cpu: where that was measured.
        batch_difference: largest difference of a sequence alone and in a batch; an embedding depends on its batch.
        golden_tolerance: within which the golden vectors must replay.
    """

    operator: str
    sequences: int
    max_error: float
    mean_error: float
    cosine_p1: float
    cosine_median: float
    accuracy_before: float | None
    accuracy_after: float | None
    speed_up: float
    cpu: str
    batch_difference: float
    golden_tolerance: float = Field(gt=0, lt=1)


class Manifest(Record):
    """What an artifact says of itself.

    Attributes:
        format: version of this manifest's own layout.
        name: the name the model is served under.
        version: the model's version; the newest is served under the name alone.
        created: the time of the export.
        encoder: the fields of the recipe's `encoder`.
        dim: D, the numbers in an embedding.
        pooling: how steps become one vector.
        longest_training_sequence: steps; longer inputs are served but were never seen in training. None if nobody
            knows, as of weights trained elsewhere.
        prediction: what the output `logits` means; None if there is no such output.
        source: where the data or the weights come from.
        licence: under which terms.
        quantization: what int8 cost; None for float32. If it is there, `parity` is empty: nothing is exact.
        weights_sha256: over the initializers' names and bytes, in the graph's order.
    """

    format: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$")
    version: str
    created: str
    encoder: dict[str, Any]
    input: Input
    dim: int = Field(ge=1)
    pooling: str
    longest_training_sequence: int | None
    standardization: Statistics | None
    task: TaskRecord | None
    prediction: Prediction | None = None
    source: str
    licence: str
    weights_sha256: str
    parity: list[ParityCheck]
    quantization: Quantization | None = None
    golden: list[Golden] = Field(min_length=1)

    def golden_tolerance(self, float32: float) -> float:
        """Return how closely the golden vectors must replay, given what a float32 encoder must keep to."""
        return float32 if self.quantization is None else max(float32, self.quantization.golden_tolerance)

    def summary(self) -> dict[str, Any]:
        """Return everything but the golden vectors and the tokenizer, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"golden": True, "input": {"tokenizer"}})


def read_manifest(metadata: Mapping[str, str], file: str) -> Manifest | None:
    """Read the manifest from an ONNX file's metadata.

    Args:
        metadata: the file's `metadata_props`.
        file: its name, for the error.

    Returns:
        The manifest, or None if the file carries none.

    Raises:
        ArtifactError: there is one and it does not validate, or cannot be repeated as JSON.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        manifest = Manifest.model_validate_json(metadata[METADATA_KEY])
        size = len(orjson.dumps(manifest.summary()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the manifest"
        raise ArtifactError(file, f"its manifest is invalid at {place}: {first['msg']}") from error
    except TypeError as error:  # a number that orjson does not write, though pydantic reads it
        raise ArtifactError(file, f"its manifest cannot be repeated: {error}") from error
    if size > MAX_SUMMARY_BYTES:
        raise ArtifactError(
            file,
            f"its manifest, but for golden vectors and tokenizer, has {size} bytes: the most is {MAX_SUMMARY_BYTES}",
        )
    return manifest
