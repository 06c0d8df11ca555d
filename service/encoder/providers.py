"""Where an encoder runs: ONNX Runtime's execution providers, and the options each is started with."""

import onnxruntime

from service.errors import ProviderUnavailable
from service.settings import CudaOptions, Provider

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


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
