"""Where an encoder runs: ONNX Runtime's execution providers, and the options each is started with."""

from dataclasses import dataclass

import onnxruntime

from service.errors import ProviderUnavailable
from service.settings import Provider, Settings

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """What the CUDA provider is started with.

    Attributes:
        device: number of the GPU.
        memory_bytes: of its memory, what ONNX Runtime's arena may take; 0 for all of it.
    """

    device: int = 0
    memory_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "CudaOptions":
        """Return those that the settings ask for."""
        return cls(settings.cuda_devices[0], settings.cuda_memory_bytes)


def choose_providers(provider: Provider, cuda: CudaOptions) -> list[str | tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's provider list, the preferred first.

    Raises:
        ProviderUnavailable: CUDA was asked for, and this ONNX Runtime was built without it.
    """
    if provider == "cpu":
        return [CPU_PROVIDER]
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        if provider == "auto":
            return [CPU_PROVIDER]
        raise ProviderUnavailable(
            provider, "this ONNX Runtime has none: install onnxruntime-gpu in place of onnxruntime"
        )
    onnxruntime.preload_dlls()  # finds CUDA and cuDNN in the nvidia wheels
    options = {
        "device_id": str(cuda.device),
        "use_tf32": "0",  # its 10-bit mantissa would be off by 1e-3
        "arena_extend_strategy": "kSameAsRequested",  # shapes vary: doubling would keep what one long batch took
    }
    if cuda.memory_bytes:
        options["gpu_mem_limit"] = str(cuda.memory_bytes)
    return [(CUDA_PROVIDER, options), CPU_PROVIDER]
