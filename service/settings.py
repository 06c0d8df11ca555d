"""Every setting of the service: a command-line flag and an environment variable each, from this one class."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors.base import spell

Provider: TypeAlias = Literal["auto", "cpu", "cuda"]
Form: TypeAlias = Literal["auto", "json", "human"]  # of log lines

MISUSED = 2  # the exit code for wrong settings, which is argparse's for wrong flags
ROUTE = r"^/[!-z|~]*$"  # a path without braces, which would be parameters
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # what a model may be called
MOST_PROCESSES = 256  # more than any machine has use for; a slip of the finger would take all of its memory
ROOT = Path(__file__).resolve().parents[1]  # the folder that holds the application
# Named in full unless the program was started there: an installed one may be started anywhere.
SHIPPED_MODEL = (Path() if Path.cwd() == ROOT else ROOT) / "artifacts/japanese-vowels.onnx"
# What Vertex AI tells a container, by the settings that follow it.
VERTEX = {"port": "AIP_HTTP_PORT", "health_route": "AIP_HEALTH_ROUTE", "predict_route": "AIP_PREDICT_ROUTE"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold.

    Attributes:
        max_sequence_steps: steps in one sequence.
        max_request_steps: steps in all sequences together.
        empty_allowed: whether a sequence may have no step.
        max_text_characters: characters in one text, before it is tokenised.
        max_request_characters: characters in all texts together.
    """

    max_sequence_steps: int
    max_request_steps: int
    empty_allowed: bool
    max_text_characters: int = 2**16
    max_request_characters: int = 2**20


def variable_of(setting: str) -> str:
    """Return the environment variable that sets a setting."""
    return f"LENGTHWISE_{setting.upper()}"


def unknown_variables() -> list[str]:
    """Name the environment variables that look like settings and are not, misspelt ones above all."""
    known = set(map(variable_of, Settings.model_fields))
    return sorted(name for name in os.environ if name.startswith("LENGTHWISE_") and name not in known)


def tell_faults(error: ValidationError) -> str:
    """Say what is wrong with which setting; of one that may be of several kinds, what each of them asks."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors():
        asked = re.sub(r"^(?:Input|String|Value error,) ", "", fault["msg"])
        faults.setdefault(str(next(iter(fault["loc"]), "")), []).append(asked)
    return "; ".join(f"{name} {', or '.join(asked)}".strip() for name, asked in faults.items())


class Settings(BaseSettings):
    """Serve embeddings of variable-length sequences. A flag wins over its variable: --port is LENGTHWISE_PORT."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_",
        env_ignore_empty=True,
        cli_prog_name="lengthwise serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_shortcuts={"model": "model_dir", "model-name": "model_name", "port": "http_port"},  # as KServe writes them
        frozen=True,
        extra="forbid",
    )

    model: Path = Field(SHIPPED_MODEL, description="The encoder to serve: an ONNX file, or a folder that holds one.")
    model_name: str | None = Field(
        None, pattern=f"^{NAME}$", description="What to call it; by default its manifest says, or its file's name."
    )
    models: Path | None = Field(
        None,
        description="In place of one encoder, a folder of them: each ONNX file in it is served under its manifest's "
        "name, loaded when it comes or changes, and given up when it goes.",
    )
    default_model: str | None = Field(
        None, description="The encoder that is meant if a request names none; if there is only one, it is that one."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port on which the Open Inference Protocol is spoken over gRPC; without it, it is not. 0 takes a "
        "free one and logs it. It needs the extra `grpc`.",
    )
    processes: Annotated[int, Field(ge=1, le=MOST_PROCESSES)] | Literal["auto"] = Field(
        "auto",
        description="Workers behind the port, each a process with models of its own. `auto` takes as many as the CPUs "
        "and the memory allow, and one on other systems than Linux, which have no others.",
    )
    health_route: str | None = Field(
        None,
        pattern=ROUTE,
        description="One more path that tells whether requests may be sent here; Vertex AI names it by "
        "`AIP_HEALTH_ROUTE`, and the port by `AIP_HTTP_PORT`.",
    )
    predict_route: str | None = Field(
        None,
        pattern=ROUTE,
        description='A path for `{"instances": [...]}`; Vertex AI names it by `AIP_PREDICT_ROUTE`.',
    )
    provider: Provider = Field("auto", description="Where the encoder runs; auto takes CUDA if it works.")
    cuda_device: str = Field(
        "0",
        coerce_numbers_to_str=True,
        pattern=r"^\d+(,\d+)*$",
        description="Number of the GPU that CUDA runs it on; several, separated by commas, share the work.",
    )
    cuda_memory_bytes: int = Field(
        0, ge=0, description="What ONNX Runtime may take of the GPU's memory; 0 is all of it."
    )
    runners: int = Field(0, ge=0, description="Batches that run at the same time; 0 measures how many are fastest.")
    threads: int = Field(0, ge=0, description="Threads within one run; 0 measures how many are fastest.")
    cache_dir: Path = Field(
        Path("~/.cache/lengthwise"),
        description="Where measurements are kept between starts; `$XDG_CACHE_HOME/lengthwise` if that variable is set.",
    )
    max_body_bytes: int = Field(
        32 * 2**20,
        ge=1,
        description="Bytes in a request body, before and after decompression, or in a line of a stream.",
    )
    max_sequence_steps: int = Field(8192, ge=1, description="Steps in one sequence.")
    max_request_steps: int = Field(
        100_000, ge=1, description="Steps in all sequences of a request together, an empty one counting as one."
    )
    max_text_characters: int = Field(2**16, ge=1, description="Characters in one text, counted before it is tokenised.")
    max_request_characters: int = Field(2**20, ge=1, description="Characters in all texts of a request together.")
    max_batch_sequences: int = Field(
        32,
        ge=1,
        description="Sequences in a batch; on a GPU 512 by default, and the batches of all workers share its runs.",
    )
    max_batch_steps: int = Field(
        16384,
        ge=1,
        description="Padded steps in a run; bounds its memory. On a GPU 131072 by default, for all workers together.",
    )
    max_run_seconds: float = Field(
        30.0, gt=0, description="How long a run may take before its runner is given up for hung."
    )
    max_queue_steps: int = Field(1_000_000, ge=1, description="Steps that may wait; beyond them requests get 503.")
    max_queue_seconds: float = Field(
        10.0, gt=0, description="Predicted seconds of work that may go before a request; beyond them it gets 503."
    )
    max_unread_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of answers that are not read yet, shared out among the processes: beyond them the slowest "
        "readers are cut off, and requests for large answers get 503. 0 is 256 MiB for each process. Answers of gRPC "
        "have as many besides.",
    )
    overload_status: Literal[503, 429] = Field(503, description="What requests get that the queue has no room for.")
    request_timeout_ms: int = Field(
        0, ge=0, description="What a request allows that has no `X-Request-Timeout-Ms`; 0 is any time."
    )
    empty_sequences: Literal["refuse", "zero"] = Field(
        "refuse", description="Refuse a sequence without steps, or answer the zero vector."
    )
    api_keys: SecretStr | None = Field(
        None, description="Keys, separated by commas, one of which a request must bring; without any, all are let in."
    )
    api_keys_file: Path | None = Field(
        None,
        description="A file of the hashes of more keys, as `lengthwise keys FILE` makes them; read "
        "again within a second of a change.",
    )
    steps_per_second: int = Field(
        0, ge=0, description="Steps a second that each key may send, beyond which it gets 429; 0 is any number."
    )
    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|https?://[^\s,/*]+(,\s*https?://[^\s,/*]+)*)$",
        description="Origins, separated by commas, whose pages may call the service from a browser, or `*`.",
    )
    ssl_certfile: Path | None = Field(
        None, description="The certificate, and those up to its root, to speak TLS with; PEM."
    )
    ssl_keyfile: Path | None = Field(None, description="The key of that certificate, unless it is in the same file.")
    max_connections: int = Field(
        1000,
        ge=1,
        description="Connections at a time. For one more, the one that has been idle longest is closed; if all are "
        "busy, requests on it get 503, except those for health and metrics. Of gRPC there may be as many connections "
        "besides, and as many calls.",
    )
    body_timeout_seconds: int = Field(
        60, ge=1, description="How long a request body may take to arrive; a stream of lines may take any time."
    )
    keep_alive_seconds: int = Field(
        65,
        ge=1,
        description="How long an idle connection is kept, and a stream whose answers nobody reads; any answer "
        "waits for its reader for twice as long. More than clients and balancers keep theirs.",
    )
    drain_seconds: int = Field(30, ge=1, description="How long requests in flight may take to finish on SIGTERM.")
    admin_key: SecretStr | None = Field(
        None,
        description="A key of 16 characters or more for the operator: it opens what callers' keys open, and besides "
        "`/debug/batches` and the loading and unloading of models, which are not there without it.",
    )
    page: bool = Field(True, description="Serve the page at `/`, which shows the service to people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Form = Field(
        "auto", description="`json`, a document a line, or `human`; auto is human if stderr is a terminal."
    )
    log_requests: bool = Field(True, description="Log a line for each request.")

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_link(cls, port: object) -> object:
        """Take the default if Kubernetes describes a Service called lengthwise in LENGTHWISE_PORT."""
        is_link = isinstance(port, str) and port.startswith("tcp://")
        return cls.model_fields["port"].default if is_link else port

    @model_validator(mode="before")
    @classmethod
    def _follow_others(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take from the variables of XDG and of Vertex AI what is not set otherwise."""
        if base := os.environ.get("XDG_CACHE_HOME"):
            values.setdefault("cache_dir", Path(base) / "lengthwise")
        for name, variable in VERTEX.items():
            if found := os.environ.get(variable):
                values.setdefault(name, found)
        return values

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        for small, large in (
            ("max_sequence_steps", "max_batch_steps"),
            ("max_sequence_steps", "max_request_steps"),
            ("max_request_steps", "max_queue_steps"),
            ("max_text_characters", "max_request_characters"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(f"{small} is {getattr(self, small)}, over {large}, which is {getattr(self, large)}")
        for name, value in self:
            if isinstance(value, Path) and spell(str(value)) != str(value):
                raise ValueError(f"{name} is {spell(str(value))}, a path that is not UTF-8")
        if self.steps_per_second and not self.has_keys:
            raise ValueError("steps_per_second is of each key, and there is neither api_keys nor api_keys_file")
        if self.models and {"model", "model_name"} & self.model_fields_set:
            raise ValueError("models is a folder of encoders, each under its own name: model and model_name go without")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile is given without ssl_certfile")
        return self

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def workers(self) -> int:
        """How many workers there are; one until that was chosen."""
        return 1 if self.processes == "auto" else self.processes

    @property
    def connections(self) -> int:
        """Connections that this worker may have."""
        return -(-self.max_connections // self.workers)

    @property
    def unread_bytes(self) -> int:
        """Bytes of unread answers that this worker may have."""
        return -(-self.max_unread_bytes // self.workers) or 256 * 2**20

    @property
    def cuda_devices(self) -> tuple[int, ...]:
        """The GPUs that CUDA runs it on."""
        return tuple(dict.fromkeys(map(int, self.cuda_device.split(","))))

    @cached_property
    def limits(self) -> Limits:
        """What one request may hold."""
        return Limits(
            max_sequence_steps=self.max_sequence_steps,
            max_request_steps=self.max_request_steps,
            empty_allowed=self.empty_sequences == "zero",
            max_text_characters=self.max_text_characters,
            max_request_characters=self.max_request_characters,
        )
