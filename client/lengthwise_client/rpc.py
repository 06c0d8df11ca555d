"""gRPC: the Open Inference Protocol, as one more format of calls and a transport that carries them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from struct import pack
from typing import Any, ClassVar

import grpc
import httpx
import numpy as np
import numpy.typing as npt
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from lengthwise_client.formats import Encoded, Options, to_arrays
from lengthwise_client.messages import describe, kind_of, read_name, read_names, write_index, write_metadata

SERVICE = "inference.GRPCInferenceService"
PASSED = frozenset({"authorization", "traceparent", "tracestate", "x-expect-model", "x-request-id"})
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
STATUSES = {
    "INVALID_ARGUMENT": 422,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 503,
    "DEADLINE_EXCEEDED": 504,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}


@dataclass(frozen=True, slots=True)
class Rpc:
    """Raw tensors both ways: sequences end to end, texts, and every output.

    Attributes:
        features: F, the numbers in a step; None if steps are token ids.
        options: the call's options.
    """

    features: int | None
    options: Options
    frame_bytes: ClassVar[int] = 1024  # all of a message but its sequences
    headers: ClassVar[dict[str, str]] = {}
    path: ClassVar[str] = f"/{SERVICE}/ModelInfer"

    def bound_bytes(self, sequence: Any) -> int:
        """Return the bytes that a sequence takes in the message."""
        if isinstance(sequence, str):
            return 4 + len(sequence.encode())
        return 8 + len(sequence) * (8 if self.features is None else 4 * self.features)

    def write(self, sequences: Sequence[npt.ArrayLike], first: int) -> bytes:
        """Write a message.

        Args:
            sequences: at least one, all texts or none.
            first: index of the first of them among the caller's.

        Raises:
            ValueError: predictions are asked for, or the steps of texts, which would come without labels or lengths.
        """
        if "prediction" in self.options.outputs:
            raise ValueError("over gRPC predictions come as logits without labels: ask over http for them")
        request = kind_of("ModelInferRequest")(model_name=self.options.model or "")
        request.parameters["normalize"].bool_param = self.options.normalize
        request.parameters["ragged"].bool_param = True
        if "state" not in self.options.outputs:  # all are asked for then: a state has a tensor for each of its parts
            for output in self.options.outputs:
                request.outputs.add(name=output)
        if isinstance(sequences[0], str):
            if "steps" in self.options.outputs:
                raise ValueError("over gRPC the steps of texts come without their lengths: ask over http for them")
            texts = [str(text).encode() for text in sequences]
            request.inputs.add(name="texts", datatype="BYTES", shape=[len(texts)])
            request.raw_input_contents.append(b"".join(pack("<I", len(text)) + text for text in texts))
            return bytes(request.SerializeToString())
        arrays = to_arrays(sequences, first, self.features)
        values = np.ascontiguousarray(np.concatenate(arrays))
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        datatype = "INT64" if self.features is None else "FP32"
        for name, array, kind in (("sequences", values, datatype), ("lengths", lengths, "INT64")):
            request.inputs.add(name=name, datatype=kind, shape=array.shape)
            request.raw_input_contents.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return bytes(request.SerializeToString())

    def read(self, response: httpx.Response) -> Encoded:
        """Read an answer."""
        answer = kind_of("ModelInferResponse").FromString(response.content)
        found = {
            output.name: np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(output.shape)
            for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        wanted = self.options.outputs
        state = {name.removeprefix("state_"): part for name, part in found.items() if name.startswith("state_")}
        steps: list[Any] = []
        if "steps" in wanted:
            asked = kind_of("ModelInferRequest").FromString(response.request.content)
            lengths = np.frombuffer(asked.raw_input_contents[1], dtype="<i8")
            steps = np.split(found["steps"], np.cumsum(lengths)[:-1])
        embeddings = found.get("embedding", np.empty((0, 0), dtype=np.float32))
        if "embedding" not in wanted:
            embeddings = embeddings[:0]
        return Encoded(embeddings, steps, state if "state" in wanted else {})


def choose(features: int | None, options: Options, _sequence: object) -> Rpc:
    """Choose the format of a part: there is one."""
    return Rpc(features, options)


class RpcTransport(httpx.BaseTransport):
    """Carries the client's requests as calls."""

    def __init__(self, url: str) -> None:
        """Prepare a channel to `grpc://HOST:PORT`, or with TLS to `grpcs://HOST:PORT`."""
        target, is_secure = _read_url(url)
        credentials = grpc.ssl_channel_credentials() if is_secure else None
        self._channel = (
            grpc.secure_channel(target, credentials, OPTIONS) if is_secure else grpc.insecure_channel(target, OPTIONS)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make the call that a request is, and return its answer as one of HTTP."""
        metadata, timeout = _read_metadata(request), _read_timeout(request)

        def ask(method: str, body: bytes) -> tuple[bytes, Any]:
            made = self._channel.unary_unary(f"/{SERVICE}/{method}")
            content, call = made.with_call(body, timeout=timeout, metadata=metadata)
            return content, call.trailing_metadata()

        try:
            method, body = _read_call(request, request.read())
            if method != "info":
                return _answer(*ask(method, body))
            names, first = read_names(ask("RepositoryIndex", write_index())[0]), ""
            described = [ask("ModelMetadata", write_metadata(name))[0] for name in names]
            if names:
                first = _find_default(partial(ask, "ModelMetadata", write_metadata("")))
            return describe(described, first)
        except grpc.RpcError as error:
            return _refuse(error, request)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncRpcTransport(httpx.AsyncBaseTransport):
    """Carries the asynchronous client's requests as calls."""

    def __init__(self, url: str) -> None:
        """Keep where to call; the channel is opened in the loop of the first call."""
        self._target, self._is_secure = _read_url(url)
        self._channel: Any = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make the call that a request is, and return its answer as one of HTTP."""
        metadata, timeout = _read_metadata(request), _read_timeout(request)

        async def ask(method: str, body: bytes) -> tuple[bytes, Any]:
            call = self._open().unary_unary(f"/{SERVICE}/{method}")(body, timeout=timeout, metadata=metadata)
            return await call, await call.trailing_metadata()

        try:
            method, body = _read_call(request, await request.aread())
            if method != "info":
                return _answer(*await ask(method, body))
            names = read_names((await ask("RepositoryIndex", write_index()))[0])
            described = [(await ask("ModelMetadata", write_metadata(name)))[0] for name in names]
            first = ""
            if names:
                try:
                    first = read_name((await ask("ModelMetadata", write_metadata("")))[0])
                except grpc.RpcError as error:
                    _require_missing(error)
            return describe(described, first)
        except grpc.RpcError as error:
            return _refuse(error, request)

    def _open(self) -> Any:
        if self._channel is None:
            target = self._target
            self._channel = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), OPTIONS)
                if self._is_secure
                else grpc.aio.insecure_channel(target, OPTIONS)
            )
        return self._channel

    async def aclose(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()


def _read_url(url: str) -> tuple[str, bool]:
    found = httpx.URL(url)
    return found.netloc.decode(), found.scheme == "grpcs"


def _read_metadata(request: httpx.Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.headers.items() if name in PASSED]


def _read_timeout(request: httpx.Request) -> float | None:
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout


def _read_call(request: httpx.Request, body: bytes) -> tuple[str, bytes]:
    """Return the call that a request is, and its message."""
    calls = {"/info": "info", "/health/ready": "ServerReady"}
    path = request.url.path
    return calls.get(path) or path.rpartition("/")[2], body


def _find_default(ask: Any) -> str:
    """Return the name of the model that is meant by none; nothing if none is."""
    try:
        return read_name(ask()[0])
    except grpc.RpcError as error:
        _require_missing(error)
        return ""


def _require_missing(error: Any) -> None:
    """Raise an error again, unless it says that there is no such model."""
    if error.code() is not grpc.StatusCode.NOT_FOUND:
        raise error


def _answer(content: bytes, trailing: Any) -> httpx.Response:
    headers = [(name, value) for name, value in trailing or () if isinstance(value, str)]
    return httpx.Response(200, headers=headers, content=content)


def _refuse(error: Any, request: httpx.Request) -> httpx.Response:
    """Return what a failed call is in HTTP.

    Raises:
        httpx.TransportError: nobody answered.
    """
    code, sentence = error.code().name, error.details() or ""
    trailing = dict(error.trailing_metadata() or ())
    if "grpc-status-details-bin" not in trailing:
        if code == "DEADLINE_EXCEEDED":
            raise httpx.ReadTimeout(sentence, request=request) from error
        if code in ("UNAVAILABLE", "CANCELLED", "UNKNOWN"):
            raise httpx.ConnectError(sentence, request=request) from error
        status = 413 if code == "RESOURCE_EXHAUSTED" else STATUSES.get(code, 500)
        return httpx.Response(status, text=sentence)
    info = ErrorInfo()
    Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(info)
    status = 429 if info.reason == "RATE_EXCEEDED" else STATUSES.get(code, 500)
    name = info.reason.lower().replace("_", "-")
    problem = {"type": f"urn:lengthwise:problem:{name}", "title": name.replace("-", " "), "detail": sentence}
    problem |= {"request_id": trailing.get("x-request-id"), **info.metadata}
    headers = {name: value for name, value in trailing.items() if isinstance(value, str)}
    headers["content-type"] = "application/problem+json"
    return httpx.Response(status, headers=headers, content=json.dumps(problem).encode())
