"""What requests and answers of the Open Inference Protocol hold, for its reader and for the OpenAPI document."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt


class Part(BaseModel):
    """A part of a request; what only other servers know is passed over, as clients of the protocol expect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class TensorParameters(Part):
    """How a tensor's data are sent."""

    binary_data_size: NonNegativeInt | None = Field(None, description="Bytes of it behind the JSON, in place of data.")


class TensorHeader(Part):
    """A tensor of a request, without its data."""

    name: str
    shape: list[NonNegativeInt] = Field(fail_fast=True)
    datatype: str
    parameters: TensorParameters = TensorParameters()


class OutputParameters(Part):
    """How an output's data are to be sent."""

    binary_data: bool | None = Field(None, description="Whether it is wanted raw, behind the JSON.")


class RequestedOutput(Part):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(Part):
    """What holds for the whole request."""

    ragged: bool = Field(False, description="Whether `sequences` is of the steps of all sequences, end to end.")
    normalize: bool = Field(False, description="Whether embeddings are scaled to L2 norm 1.")
    timeout: NonNegativeInt = Field(0, description="Microseconds after which the answer is of no use; 0 says nothing.")
    binary_data_output: bool = Field(False, description="Whether outputs that do not say are wanted raw.")


class InferHeader(Part):
    """An inference request, without data."""

    id: str | None = None
    model_name: str | None = Field(None, description="As KServe's clients send it: the model that the path names.")
    parameters: InferParameters = InferParameters()
    inputs: list[TensorHeader] = Field(fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(
        None, fail_fast=True, description="All that the model gives, if it is left out."
    )


class TensorMetadata(BaseModel):
    """What a tensor is; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


class InferTensor(TensorHeader):
    """A tensor of a request."""

    data: list[Any] | None = Field(None, description="Flat, or nested as the shape says; or raw, behind the JSON.")


class InferRequest(InferHeader):
    """What to encode. The binary extension puts raw little-endian data behind this JSON, input by input."""

    inputs: list[InferTensor]  # type: ignore[assignment]


class OutputTensor(BaseModel):
    """A tensor of an answer."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float] | None = Field(None, description="Flat; raw behind the JSON if that was asked for.")
    parameters: dict[str, int] | None = Field(None, description="`binary_data_size`, if it is raw.")


class InferResponse(BaseModel):
    """What the model gave."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]
