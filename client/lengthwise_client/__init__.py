"""Asks a Lengthwise service for embeddings: sequences of any length in, one float32 array out."""

from lengthwise_client.adapters import from_aeon, from_sktime, from_tf_ragged, from_torch, from_tslearn
from lengthwise_client.asynchronous import AsyncClient
from lengthwise_client.client import Client
from lengthwise_client.errors import (
    DeadlineExceeded,
    LengthwiseError,
    ModelChanged,
    NotUnderstood,
    Problem,
    Refused,
    Unreachable,
)
from lengthwise_client.formats import Encoded

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "Encoded",
    "LengthwiseError",
    "ModelChanged",
    "NotUnderstood",
    "Problem",
    "Refused",
    "Unreachable",
    "from_aeon",
    "from_sktime",
    "from_tf_ragged",
    "from_torch",
    "from_tslearn",
]
