"""Make every call of KServe's clients; run by test_kserve.py in an environment that has kserve, and not Symphony.

    python kserve_calls.py HTTP_ADDRESS GRPC_ADDRESS    ("" for no gRPC)

Prints what came back as JSON.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

DTYPES = {
    "BOOL": "bool",
    "FP32": "float32",
    "FP64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
}


def everything(is_binary):
    """Return the inputs of the model `mirror` of the tests; raw where KServe cannot write lists."""
    inputs = []
    for datatype, dtype in DTYPES.items():
        tensor = InferInput(datatype.lower(), [3], datatype)
        tensor.set_data_from_numpy(np.array([0, 1, 1]).astype(dtype), binary_data=is_binary)
        inputs.append(tensor)
    half = InferInput("fp16", [3], "FP16")
    half.set_data_from_numpy(np.array([0.5, 1, 2], np.float16), binary_data=True)
    text = InferInput("bytes", [3], "BYTES")
    text.set_data_from_numpy(np.array([b"one", b"", b"three"], object), binary_data=is_binary)
    return [*inputs, half, text]


async def rest(address):
    """Ask over HTTP."""
    url = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "most"),
        "absent_ready": await client.is_model_ready(url, "absent"),
    }
    for is_binary in (False, True):
        asked = [RequestedOutput(name, {"binary_data": is_binary}) for name in (*DTYPES, "BYTES")]
        asked.append(RequestedOutput("FP16", {"binary_data": True}))
        request = InferRequest(
            model_name="most", infer_inputs=everything(is_binary), request_id="r-9", request_outputs=asked
        )
        response = await client.infer(url, request, model_name="most")
        found["binary" if is_binary else "json"] = {
            "id": response.id,
            "outputs": {output.name: shown(output.as_numpy()) for output in response.outputs},
        }
    plain = {"inputs": [{"name": "x", "shape": [5], "datatype": "FP32", "data": [1, 2, 3, 4, 5]}]}
    response = await client.infer(url, plain, model_name="scores")
    found["dict"] = shown(response.outputs[0].as_numpy())
    try:
        await client.infer(url, {"inputs": []}, model_name="scores")
    except Exception as error:
        found["error"] = str(error)
    await client.close()
    return found


async def rpc(address):
    """Ask over gRPC."""
    client = InferenceGRPCClient(address)
    request = InferRequest(model_name="most", infer_inputs=everything(True), request_id="r-9")
    response = await client.infer(request)
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("most"),
        "outputs": {output.name: shown(output.as_numpy()) for output in response.outputs},
    }
    await client.close()
    return found


def shown(array):
    """Return an array for JSON."""
    return [str(array.dtype), [each.decode() if isinstance(each, bytes) else each for each in array.tolist()]]


async def main():
    """Ask over both."""
    found = {"rest": await rest(sys.argv[1])}
    if sys.argv[2]:
        found["grpc"] = await rpc(sys.argv[2])
    print(json.dumps(found))


asyncio.run(main())
