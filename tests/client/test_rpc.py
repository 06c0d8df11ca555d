"""The client over gRPC: the same methods, bits and errors as over HTTP."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from lengthwise_client import AsyncClient, Client, DeadlineExceeded, Refused, Unreachable
from lengthwise_client import messages as wire
from service.app import create_app
from service.codecs.kserve import messages
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.settings import Settings
from tests.conftest import ARTIFACTS, draw_sequences
from tests.listening import listen
from tests.server.test_grpc import call, make

SEQUENCES = draw_sequences([3, 1, 7])


@pytest.fixture(scope="module")
def address(artifact: Path) -> Iterator[str]:
    """Where the made encoder takes calls."""
    with call(make(artifact)) as found:
        yield f"grpc://{found}"


def test_the_protocol_is_the_services() -> None:
    """Client and service carry the same compiled protocol."""
    theirs = Path(messages.__file__).with_name("open_inference.binpb")
    assert Path(wire.__file__).with_name("open_inference.binpb").read_bytes() == theirs.read_bytes()


def test_embeddings_have_the_bits_of_http(address: str, artifact: Path) -> None:
    """Both clients, normalised and not."""
    with listen(create_app(Settings(model=artifact))) as web, Client(f"http://{web}") as http, Client(address) as rpc:
        for normalize in (False, True):
            expected = http.encode(SEQUENCES, normalize=normalize)
            assert rpc.encode(SEQUENCES, normalize=normalize).tobytes() == expected.tobytes()

            async def ask(normalize: bool = normalize) -> bytes:  # noqa: FBT001
                async with AsyncClient(address) as client:
                    assert await client.is_ready()
                    return (await client.encode(SEQUENCES, normalize=normalize)).tobytes()

            assert asyncio.run(ask()) == expected.tobytes()
        assert rpc.is_ready()
        assert rpc.encode([]).shape == (0, 16)
        assert [row.tobytes() for row in rpc.encode_stream(iter(SEQUENCES))] == [
            row.tobytes() for row in rpc.encode(SEQUENCES)
        ]


@pytest.mark.parametrize("kind", ["triples-steps", "texts-states", "tokens"])
def test_every_output_has_the_bits_of_http(kind: str) -> None:
    """Steps, states, texts and token ids."""
    artifact = ARTIFACTS / f"{kind}.onnx"
    given: list[object] = list(SEQUENCES)
    if kind == "texts-states":
        given = ["good film", "bad"]
    if kind == "tokens":
        given = [[1, 2, 3], [2]]
    with (
        listen(create_app(Settings(model=artifact))) as web,
        call(make(artifact)) as address,
        Client(f"http://{web}") as http,
        Client(f"grpc://{address}") as rpc,
    ):
        told = rpc.info()["models"][0]
        outputs = [output for output in told["outputs"] if (kind, output) != ("texts-states", "steps")]
        found = rpc.encode_outputs(given, outputs)  # type: ignore[arg-type]
        expected = http.encode_outputs(given, outputs)  # type: ignore[arg-type]
        if outputs != told["outputs"]:
            with pytest.raises(ValueError, match="without their lengths"):
                rpc.encode_outputs(given, ["steps"])  # type: ignore[arg-type]
    assert told["outputs"] == sorted(http_outputs(artifact))
    assert found.embeddings.tobytes() == expected.embeddings.tobytes()
    assert [row.tobytes() for row in found.steps] == [row.tobytes() for row in expected.steps]
    assert {name: part.tobytes() for name, part in found.state.items()} == {
        name: part.tobytes() for name, part in expected.state.items()
    }


def http_outputs(artifact: Path) -> tuple[str, ...]:
    """What the session of an artifact gives."""
    from service.encoder.session import open_session

    return open_session(artifact).outputs


def test_a_call_over_the_limits_is_sent_in_parts(artifact: Path) -> None:
    """The limits come by the model's metadata."""
    with (
        call(make(artifact, max_request_steps=8, max_sequence_steps=8)) as address,
        Client(f"grpc://{address}") as client,
    ):
        assert len(client.encode(SEQUENCES)) == 3
        assert client.info()["settings"]["max_request_steps"] == 8


def test_refusals_are_problems_with_the_callers_own_places(address: str) -> None:
    """The same errors as over HTTP; a sequence is named by its place in the call."""
    with Client(address) as client:
        wrong = [*SEQUENCES, np.full((2, 3), np.nan, dtype=np.float32)]
        with pytest.raises(Refused, match="finite") as caught:
            client.encode(wrong)
        assert (caught.value.problem.status, caught.value.problem.type) == (
            422,
            "urn:lengthwise:problem:non-finite-value",
        )
        assert caught.value.problem.request_id
        with pytest.raises(Refused) as caught:
            client.encode(SEQUENCES, model="nobody")
        assert caught.value.problem.status == 404


def test_nobody_and_no_time_are_said(address: str) -> None:
    """Unreachable and DeadlineExceeded, as over HTTP."""
    with Client("grpc://127.0.0.1:1", retries=0) as client:
        assert not client.is_ready()
        with pytest.raises(Unreachable):
            client.encode(SEQUENCES)
    with Client(address) as client:
        client.encode(SEQUENCES)
        with pytest.raises(DeadlineExceeded):
            client.encode(SEQUENCES, timeout=1e-6)


def test_a_key_is_sent(artifact: Path) -> None:
    """`key` goes as metadata; without it the call is refused."""
    with call(make(artifact, api_keys="callers-key-0123456")) as address:
        with Client(f"grpc://{address}", key="callers-key-0123456") as client:
            assert len(client.encode(SEQUENCES)) == 3
        with Client(f"grpc://{address}") as client, pytest.raises(Refused) as caught:
            client.encode(SEQUENCES)
        assert caught.value.problem.status == 401


def test_predictions_come_by_their_logits_alone() -> None:
    """A call of the protocol gives the tensor `logits`; the client gives labels, so it says where to ask for them."""
    with call(make(ARTIFACTS / "classes.onnx")) as address, Client(f"grpc://{address}") as client:
        assert client.info()["models"][0]["outputs"] == ["embedding", "logits"]
        with pytest.raises(ValueError, match="ask over http"):
            client.encode_outputs(SEQUENCES, ["embedding", "prediction"])
        with grpc.insecure_channel(address) as channel:
            infer = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
            request = wire.kind_of("ModelInferRequest")(model_name="made")
            steps = SEQUENCES[2]
            request.inputs.add(name="sequences", datatype="FP32", shape=[1, *steps.shape])
            request.raw_input_contents.append(steps.tobytes())
            answer = wire.kind_of("ModelInferResponse").FromString(infer(request.SerializeToString()))
    session = open_session(ARTIFACTS / "classes.onnx")
    logits = session.run_all(pad_batch([steps])).logits
    assert logits is not None
    assert [output.name for output in answer.outputs] == ["embedding", "logits"]
    assert answer.raw_output_contents[1] == logits.tobytes()


def test_an_address_says_its_protocol() -> None:
    """A host alone is refused at once, with the protocols there are."""
    with pytest.raises(ValueError, match="grpcs://"):
        Client("localhost:8000")
