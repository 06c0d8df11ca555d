"""An encoder on ONNX Runtime: the one class that export proves and the service runs."""

import hashlib
from pathlib import Path

import numpy as np

from service.encoder.manifest import Manifest, read_manifest
from service.encoder.prediction import read_predictor
from service.encoder.providers import CudaOptions
from service.encoder.runtime import CUDA_DEFAULTS, DEADLINES, Feed, LocalRuntime, Runtime, first_line
from service.encoder.sequences import Batch, Embeddings, Features, Output, Result, State, Tokens, make_zeros, pad_batch
from service.errors import ArtifactError, GoldenMismatch
from service.settings import Provider

SUFFIX = ".onnx"
STATE_INPUTS = {"initial_h", "initial_c"}
STATE_OUTPUTS = {"state_h", "state_c"}
LOGITS = "logits"

# The golden vectors were written by the CPU kernels of one machine. Another CPU sums in another order: the last bits of
# float32 sums of O(1). cuDNN sums in blocks, with TensorFloat-32 switched off.
GOLDEN_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}


class EncoderSession:
    """One encoder, loaded and ready to run. `run` may be called from several threads at once.

    Attributes:
        file: the name it was loaded under, for messages.
        sha256: of the whole artifact.
        manifest: what the artifact says of itself; None if it says nothing, and then nothing was proven.
        provider: what it runs on, `cpu` or `cuda`.
        kind: what a step is; of token ids, how many there are if the manifest says so.
        outputs: what a request may ask for: `embedding`, and `steps` and `state` if the graph gives them, and
            `prediction` if it gives logits and the manifest says what they mean.
        predictor: says what the logits mean; None if the manifest does not.
        dim: D, the numbers in an embedding.
        width: W, the numbers the graph gives for each step; None if it gives embeddings only.
        state_shape: `(layers, directions, H)` of the final state it gives or the initial one it takes, or None.
        state_names: what a state is made of: `h`, and `c` of LSTMs.
        takes_state: whether sequences may start from a state.
        keeps_deadlines: whether a batch may say when its rows are of no use any more; see `Runtime`.
        measured: what runs cost, seconds by rows and steps, if that is known before anything is measured here.
    """

    def __init__(
        self,
        content: bytes,
        file: str,
        provider: Provider = "cpu",
        threads: int = 1,
        cuda: CudaOptions = CUDA_DEFAULTS,
        *,
        runtime: Runtime | None = None,
    ) -> None:
        """Load an artifact.

        Args:
            content: the ONNX file.
            file: its name, for messages.
            provider: where to run it; `auto` takes CUDA if it works and the CPU otherwise.
            threads: threads within one run.
            cuda: what CUDA is started with.
            runtime: what runs it, if it is loaded already; nothing of the three before counts then.

        Raises:
            ArtifactError: the bytes are not an ONNX graph with the inputs and output of an encoder.
            ProviderUnavailable: CUDA was asked for and is not there.
        """
        self.file = file
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._runtime = runtime or LocalRuntime(content, file, provider, threads, cuda)
        self.provider = self._runtime.provider
        self.keeps_deadlines = self._runtime.keeps_deadlines
        self.measured = self._runtime.measured
        self._outputs = [
            node.name for node in self._runtime.outputs if node.name in {"embedding", "steps", *STATE_OUTPUTS}
        ]
        scores = self._count_logits()
        self._outputs += [] if scores is None else [LOGITS]
        self.kind = self._read_kind()
        self._read_state()
        metadata = self._runtime.metadata
        self.dim, self.width = self._try_out()
        self.manifest: Manifest | None = read_manifest(metadata, file)
        self.predictor = None if self.manifest is None else read_predictor(self.manifest, scores, file)
        self.outputs = self._list_outputs()
        if self.manifest is not None:
            self._compare(self.manifest)
            if isinstance(self.kind, Tokens):
                self.kind = Tokens(self.manifest.input.vocabulary)

    def _list_outputs(self) -> tuple[Output, ...]:
        has_state = not STATE_OUTPUTS.isdisjoint(self._outputs)
        predicts = self.predictor is not None
        return (
            "embedding",
            *(("steps",) if self.width else ()),
            *(("state",) if has_state else ()),
            *(("prediction",) if predicts else ()),
        )

    def _count_logits(self) -> int | None:
        """Return K of the output `logits`, float `[batch, K]`; None if the graph has no such output."""
        for node in self._runtime.outputs:
            if (node.name, node.type, len(node.shape)) == (LOGITS, "tensor(float)", 2):
                size = node.shape[1]
                return size if isinstance(size, int) else None
        return None

    def run(self, batch: Batch) -> Embeddings:
        """Encode a padded batch.

        Args:
            batch: `(B, T, F)` steps with F the session's own, or `(B, T)` ids, and `(B,)` lengths.

        Returns:
            `(B, D)`, float32.
        """
        (embeddings,) = self._runtime.run(["embedding"], self._feed(batch))
        return embeddings

    def run_all(self, batch: Batch) -> Result:
        """Encode a padded batch as `run` does, and return everything that the graph gives."""
        found = dict(zip(self._outputs, self._runtime.run(self._outputs, self._feed(batch)), strict=True))
        state = {name.removeprefix("state_"): part for name, part in found.items() if name.startswith("state_")}
        return Result(found["embedding"], found.get("steps"), state, found.get(LOGITS))

    def release_memory(self) -> None:
        """Give back what the largest runs so far took; the next large one takes it anew."""
        self._runtime.release_memory(self._feed(pad_batch([make_zeros(self.kind, 1)])))

    def _feed(self, batch: Batch) -> Feed:
        feed: Feed = {"sequences": batch.steps, "lengths": batch.lengths}
        if batch.deadlines is not None:
            feed[DEADLINES] = batch.deadlines
        if self.takes_state:
            feed |= {
                f"initial_{name}": state for name, state in (batch.state or self.zero_state(len(batch.lengths))).items()
            }
        return feed

    def zero_state(self, rows: int) -> State:
        """Return what `rows` sequences start from if nothing is given, if the graph has a state at all."""
        return {name: np.zeros((rows, *(self.state_shape or ())), dtype=np.float32) for name in self.state_names}

    def replay_golden(self) -> float | None:
        """Encode the manifest's golden sequences, alone and in one batch, and compare with what was proven.

        Returns:
            The largest difference found; None if there is no manifest.

        Raises:
            GoldenMismatch: it is over the provider's tolerance.
        """
        if self.manifest is None:
            return None
        try:
            sequences = [golden.sequence.array() for golden in self.manifest.golden]
            expected = np.stack([golden.embedding.array() for golden in self.manifest.golden])
            alone = np.concatenate([self.run(pad_batch([sequence])) for sequence in sequences])
            together = self.run(pad_batch(sequences))
            difference = float(np.max([np.abs(alone - expected), np.abs(together - expected)]))
        except Exception as error:  # whatever a hostile golden vector provokes, the file is the culprit
            raise ArtifactError(self.file, f"its golden vectors cannot be run: {first_line(error)}") from error
        if expected.shape != alone.shape:  # numpy has stretched one to fit
            raise ArtifactError(
                self.file,
                f"its golden embeddings have the shape {list(expected.shape)}, its graph's {list(alone.shape)}",
            )
        tolerance = self.manifest.golden_tolerance(GOLDEN_TOLERANCE[self.provider])
        if not difference <= tolerance:  # so that NaN is refused
            raise GoldenMismatch(self.file, difference, tolerance)
        return difference

    def _read_kind(self) -> Features | Tokens:
        """Return what the steps are of a graph that has the inputs and output of an encoder."""
        inputs = {node.name: (node.type, node.shape) for node in self._runtime.inputs}
        outputs = {node.name: node.type for node in self._runtime.outputs}
        match inputs, outputs:
            case (
                {"sequences": ("tensor(float)", [*free, int(features)]), "lengths": ("tensor(int64)", [_]), **more},
                {"embedding": "tensor(float)"},
            ) if len(free) == 2 and _are_open(free) and more.keys() <= STATE_INPUTS:
                return Features(features)
            case (
                {"sequences": ("tensor(int64)", [_, _] as free), "lengths": ("tensor(int64)", [_]), **more},
                {"embedding": "tensor(float)"},
            ) if _are_open(free) and more.keys() <= STATE_INPUTS:
                return Tokens()
        raise ArtifactError(
            self.file,
            f"its inputs are {inputs} and its outputs {outputs}; an encoder has the inputs sequences, float "
            "[batch, time, features] with only features fixed or int64 [batch, time], and lengths, int64 [batch], and "
            "the output embedding, float [batch, dim]",
        )

    def _read_state(self) -> None:
        """Learn from the graph what states it takes and gives."""
        taken = {node.name: node for node in self._runtime.inputs if node.name in STATE_INPUTS}
        given = {node.name: node for node in self._runtime.outputs if node.name in STATE_OUTPUTS}
        self.takes_state = bool(taken)
        self.state_names = [letter for letter in "hc" if f"initial_{letter}" in taken or f"state_{letter}" in given]
        shapes = {(node.type, *node.shape[1:]) for node in [*taken.values(), *given.values()]}
        sizes = [size for shape in shapes for size in shape[1:]]
        match_each = not (taken and given) or {name[-1] for name in taken} == {name[-1] for name in given}
        known = len(sizes) == 3 and all(isinstance(size, int) for size in sizes)
        if shapes and not (known and match_each and {shape[0] for shape in shapes} == {"tensor(float)"}):
            raise ArtifactError(
                self.file, f"its states {sorted(taken | given)} are not float [batch, layers, directions, hidden] alike"
            )
        self.state_shape = (sizes[0], sizes[1], sizes[2]) if shapes else None

    def _try_out(self) -> tuple[int, int | None]:
        """Encode two made sequences, and return D and W."""
        try:
            result = self.run_all(pad_batch([make_zeros(self.kind, length) for length in (3, 1)]))
        except Exception as error:
            raise ArtifactError(self.file, f"it fails on two short sequences: {first_line(error)}") from error
        shape = result.embeddings.shape
        if len(shape) != 2 or shape[0] != 2 or not shape[1]:
            raise ArtifactError(self.file, f"its embeddings of two sequences have the shape {list(shape)}")
        if result.steps is None:
            return int(shape[1]), None
        if result.steps.ndim != 3 or result.steps.shape[:2] != (2, 3):
            raise ArtifactError(self.file, f"its steps of two sequences have the shape {list(result.steps.shape)}")
        return int(shape[1]), int(result.steps.shape[2])

    def _compare(self, manifest: Manifest) -> None:
        """Refuse a manifest of another graph, or one whose own proof does not hold."""
        if (manifest.input.features, manifest.dim) != (self.kind.features, self.dim):
            reason = f"its manifest says {manifest.input.features} features and {manifest.dim} numbers an embedding"
            raise ArtifactError(self.file, f"{reason}, its graph {self.kind.features} and {self.dim}")
        if not all(check.holds for check in manifest.parity):
            raise ArtifactError(self.file, "the proof in its manifest does not hold")


def open_session(
    path: Path, provider: Provider = "cpu", threads: int = 1, cuda: CudaOptions = CUDA_DEFAULTS
) -> EncoderSession:
    """Load the artifact at `path`, or the one in the folder `path`; see `EncoderSession`.

    Raises:
        ArtifactError: also if the file cannot be read, or a folder does not hold just one.
    """
    path = find_artifact(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(str(path), f"it cannot be read: {error.strerror}") from error
    return EncoderSession(content, str(path), provider, threads, cuda)


def find_artifact(path: Path) -> Path:
    """Return `path`, or the one artifact in the folder it is.

    Raises:
        ArtifactError: the folder does not hold just one.
    """
    if (files := list_folder(path)) is None:
        return path
    if not files:
        hint = "if it is a run directory, `lengthwise export` makes one of it"
        raise ArtifactError(str(path), f"it is a folder without an ONNX file; {hint}")
    if len(files) != 1:
        raise ArtifactError(str(path), f"it is a folder with {len(files)} files *.onnx: one is expected")
    return files[0]


def list_folder(place: Path) -> list[Path] | None:
    """Return the ONNX files in a folder, in order; None if there is a file or nothing at that place.

    `is_dir`, `exists` and `glob` would tell what cannot be read from what is not there in some versions of Python only.

    Raises:
        ArtifactError: that cannot be told.
    """
    try:
        return sorted(path for path in place.iterdir() if path.suffix == SUFFIX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtifactError(str(place), f"it cannot be read: {error.strerror}") from error


def _are_open(sizes: list[object]) -> bool:
    """Whether no size of a shape is fixed."""
    return not any(isinstance(size, int) for size in sizes)
