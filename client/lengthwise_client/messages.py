"""The messages of the Open Inference Protocol: what is asked of models, and what their descriptions say."""

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import httpx
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

LIMITS = ("max_request_steps", "max_queue_steps", "max_body_bytes")

POOL = DescriptorPool()  # of our own: the protocol's other clients have these names in the one that all share
POOL.Add(FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes()).file[0])


def kind_of(name: str) -> Any:
    """Return the class of a message of the protocol."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


def write_index() -> bytes:
    """Write the question which models are ready."""
    return bytes(kind_of("RepositoryIndexRequest")(ready=True).SerializeToString())


def write_metadata(name: str) -> bytes:
    """Write the question what a model is; none named is the default one."""
    return bytes(kind_of("ModelMetadataRequest")(name=name).SerializeToString())


def read_names(body: bytes) -> list[str]:
    """Read the names of the models that are ready, each once."""
    models = kind_of("RepositoryIndexResponse").FromString(body).models
    return sorted({model.name for model in models})


def read_name(body: bytes) -> str:
    """Read the name of the model that is described."""
    return str(kind_of("ModelMetadataResponse").FromString(body).name)


def describe(models: Iterable[bytes], default: str) -> httpx.Response:
    """Write what `/info` says as far as the protocol tells it."""
    described: list[dict[str, Any]] = []
    settings: dict[str, int] = {}
    for body in models:
        model = kind_of("ModelMetadataResponse").FromString(body)
        shapes = {one.name: list(one.shape) for one in [*model.inputs, *model.outputs]}
        sequences = shapes["sequences"]
        described.append(
            {
                "name": model.name,
                "names": [model.name, *(f"{model.name}@{version}" for version in model.versions)],
                "features": sequences[2] if len(sequences) > 2 else None,
                "dim": shapes["embedding"][1],
                "sha256": model.properties["sha256"],
                "outputs": sorted({one.name.partition("_")[0] for one in model.outputs}),
            }
        )
        settings = {name: int(model.properties[name]) for name in LIMITS}
    return httpx.Response(200, json={"models": described, "default_model": default or None, "settings": settings})
