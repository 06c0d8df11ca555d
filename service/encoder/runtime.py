"""What runs an encoder's graph, and the one that does it in this process: ONNX Runtime, on the CPU or through CUDA."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.encoder.providers import CUDA_PROVIDER, CudaOptions, choose_providers
from service.errors import ArtifactError, ProviderUnavailable
from service.settings import Provider

CUDA_DEFAULTS = CudaOptions()
SOURCE_FOLDERS = re.compile(r"/[\w./+-]*/(?=[\w-]+\.(?:cc|cpp|cu|h)\b)")

Device: TypeAlias = Literal["cpu", "cuda"]
DEADLINES = "deadlines"  # `(B,)`, on the clock of `time.perf_counter`

Feed: TypeAlias = dict[str, npt.NDArray[np.generic]]  # arrays by input; the first axis of each is the batch
Run: TypeAlias = Callable[[Sequence[str], Feed], list[npt.NDArray[np.float32]]]
Measured: TypeAlias = Mapping[tuple[int, int], float]  # seconds of a run by rows and steps

_SHRINKING = onnxruntime.RunOptions()
_SHRINKING.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")


class Tensor(NamedTuple):
    """An input or output of a graph, as ONNX Runtime tells of it; a size that is open is a name or None."""

    name: str
    type: str
    shape: list[Any]


class Runtime(Protocol):
    """What runs a graph.

    Attributes:
        run: given the wanted outputs and the inputs of a batch, returns these outputs, in memory that no later run
            writes to: answers are views of it. It may be called from several threads at once.
        keeps_deadlines: whether runs may wait for others', and take an input `DEADLINES` more: when each row is of no
            use any more. What such a row gets is not defined.
        provider: what the graph runs on.
        inputs: its inputs.
        outputs: its outputs.
        metadata: what the artifact carries beside the graph.
        measured: what runs cost, if whoever does them has measured it; empty otherwise.
    """

    keeps_deadlines: bool
    provider: Device
    inputs: list[Tensor]
    outputs: list[Tensor]
    metadata: dict[str, str]
    measured: Measured

    @property
    def run(self) -> Run:
        """What runs the graph over a batch."""

    def release_memory(self, feed: Feed) -> None:
        """Give back what large runs took; `feed` is the smallest batch there is."""


class LocalRuntime:
    """A graph that runs in this process; see `Runtime`."""

    keeps_deadlines = False  # a run begins at once

    def __init__(self, content: bytes, file: str, provider: Provider, threads: int, cuda: CudaOptions) -> None:
        """Load a graph.

        Raises:
            ArtifactError: ONNX Runtime refuses it.
            ProviderUnavailable: CUDA was asked for and is not there.
        """
        self._session = _load(content, file, threads, choose_providers(provider, cuda))
        self._device = cuda.device
        self.measured: Measured = {}
        self.provider: Device = "cuda" if self._session.get_providers()[0] == CUDA_PROVIDER else "cpu"
        self.run: Run = self._session.run if self.provider == "cpu" else self.run_bound
        if provider == "cuda" != self.provider:
            raise ProviderUnavailable(
                provider, "ONNX Runtime could not start it: is there a GPU, its driver and cuDNN?"
            )
        try:
            self.inputs = [Tensor(node.name, node.type, node.shape) for node in self._session.get_inputs()]
            self.outputs = [Tensor(node.name, node.type, node.shape) for node in self._session.get_outputs()]
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ArtifactError(file, f"it names something in what is no UTF-8: {error}") from error

    def run_bound(self, outputs: Sequence[str], feed: Feed, device: Device = "cuda") -> list[npt.NDArray[np.float32]]:
        """Run with everything bound to where the kernels want it: lengths in host memory, all else on `device`."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            if name == "lengths":
                binding.bind_cpu_input(name, array)
            else:
                value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, self._device)
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return cast("list[npt.NDArray[np.float32]]", binding.copy_outputs_to_cpu())

    def release_memory(self, feed: Feed) -> None:
        """Shrink the arena, which grows to what concurrent runs of the largest batches need.

        ONNX Runtime does so at the end of a run that asks for it.
        """
        if self.provider == "cpu":
            self._session.run(["embedding"], feed, _SHRINKING)


def _load(
    content: bytes, file: str, threads: int, providers: list[str | tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary from run to run, and a plan a shape would only pile up
    options.log_severity_level = 3  # errors; what matters is raised
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its exceptions share no base below Exception
        raise ArtifactError(file, f"ONNX Runtime refuses it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Say what went wrong in a clause, without the folders of the machine that ONNX Runtime was built on."""
    return SOURCE_FOLDERS.sub("", str(error).strip().partition("\n")[0]).rstrip(".") or type(error).__name__
