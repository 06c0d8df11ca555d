"""KServe's own clients, in a process of their own: protobuf holds Triton's messages or KServe's, not both.

`python -m tests.api.kserve_client HTTP_URL GRPC_ADDRESS raw|typed` sends the batch of `test_kserve_sdk` over both, and
prints what was sent and what came back.
"""

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

import numpy as np

from service.encoder.sequences import pad_batch
from tests.conftest import draw_sequences

BATCH = pad_batch(draw_sequences([3, 1]))


async def main(url: str, address: str, *, is_raw: bool) -> dict[str, Any]:
    """Ask both ways."""
    kserve, infer_type = import_module("kserve"), import_module("kserve.protocol.infer_type")
    inputs = []
    for name, datatype, array in (("sequences", "FP32", BATCH.steps), ("lengths", "INT64", BATCH.lengths)):
        tensor = kserve.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=is_raw)
        inputs.append(tensor)
    named = {"request_id": "7", "parameters": {"tag": "a"}}
    message = kserve.InferRequest("made", inputs, request_outputs=[infer_type.RequestedOutput("embedding")], **named)
    sent = message.to_grpc().SerializeToString(deterministic=True)
    async with kserve.InferenceGRPCClient(address) as rpc:
        assert await rpc.is_server_live()
        assert await rpc.is_server_ready()
        assert await rpc.is_model_ready("made")
        found = [await rpc.infer(message)]

    wanted = infer_type.RequestedOutput("embedding", {"binary_data": True} if is_raw else None)
    request = kserve.InferRequest("made", inputs, request_outputs=[wanted], **named)
    body, length = request.to_rest()
    http = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    assert await http.is_server_live(url)
    assert await http.is_server_ready(url)
    assert await http.is_model_ready(url, "made")
    found.append(await http.infer(url, request, model_name="made"))
    await http.close()
    return {
        "message": sent.hex(),
        "body": body[:length].decode() if is_raw else body,
        "found": [one.outputs[0].as_numpy().astype(np.float32).tobytes().hex() for one in found],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], is_raw=sys.argv[3] == "raw"))))
