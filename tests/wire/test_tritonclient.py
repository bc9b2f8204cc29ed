"""Bodies made and read by Triton's own client, where it is installed (it needs no server for that)."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.wire import InferResponse, decode_request, encode_response
from symphony.wire.tensors import NUMPY_DTYPES

http = pytest.importorskip("tritonclient.http", exc_type=ImportError)

ARRAYS = {
    name: np.array([[0, 1, 1]]).astype(dtype)
    for name, dtype in NUMPY_DTYPES.items()
    if name not in ("BYTES", "BF16")
} | {"BYTES": np.array([[b"one", b"", "é".encode()]], object)}  # fmt: skip


def request_body(datatype: str, array: np.ndarray, is_binary: bool, **arguments) -> tuple[bytes, str, int | None]:
    """Return the client's body, the content type it sends (none) and the length of the JSON part."""
    tensor = http.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=is_binary)
    body, length = http.InferenceServerClient.generate_request_body([tensor], **arguments)
    return body.encode() if isinstance(body, str) else body, "", length


@pytest.mark.parametrize("datatype", ARRAYS)
@pytest.mark.parametrize("is_binary", [True, False])
def test_its_request_is_taken(datatype: str, is_binary: bool) -> None:
    if datatype == "FP16" and not is_binary:
        pytest.skip("the client refuses FP16 as JSON")
    array = ARRAYS[datatype]
    request = decode_request(*request_body(datatype, array, is_binary))
    got = request.inputs["x"]
    assert got.dtype == array.dtype
    assert got.tolist() == array.tolist()
    assert request.form.is_binary


def test_its_options_arrive() -> None:
    outputs = [http.InferRequestedOutput("y", binary_data=True), http.InferRequestedOutput("z", binary_data=False)]
    request = decode_request(
        *request_body(
            "FP32",
            ARRAYS["FP32"],
            True,
            outputs=outputs,
            request_id="r-1",
            priority=2,
            timeout=25_000,
            parameters={"slo_ms": 20},
        )
    )
    assert (request.id, request.priority, request.timeout_ns) == ("r-1", 2, 25_000_000)
    assert request.output_names == ("y", "z")
    assert request.form.is_binary_by_name == {"y": True, "z": False}
    assert request.parameters["slo_ms"] == 20


@pytest.mark.parametrize("datatype", ARRAYS)
@pytest.mark.parametrize("is_binary", [True, False])
def test_our_response_is_understood(datatype: str, is_binary: bool) -> None:
    outputs = [http.InferRequestedOutput("y", binary_data=is_binary)]
    request = decode_request(*request_body("FP32", ARRAYS["FP32"], True, outputs=outputs))
    array = ARRAYS[datatype]
    parts, _, headers = encode_response(InferResponse("m", "1", {"y": array}, id="r-1"), request.form)
    length = headers.get("Inference-Header-Content-Length")
    assert (length is not None) == is_binary
    result = http.InferenceServerClient.parse_response_body(
        b"".join(parts), header_length=None if length is None else int(length)
    )
    got = result.as_numpy("y")
    expected = array
    if datatype == "BYTES" and not is_binary:
        expected = np.array([[element.decode() for element in array[0]]], object)
    assert got.dtype == expected.dtype
    assert got.tolist() == expected.tolist()
    assert result.get_response()["id"] == "r-1"
