"""In which form and coding a reply comes: the request's, unless Accept and Accept-Encoding ask for another one."""

from __future__ import annotations

import gzip
import json
import zlib

import msgpack
import numpy as np
import pytest

from symphony.ingress.bodies import reply_coding
from symphony.wire import FRAMED, JSON, MSGPACK, InferRequest, decode_response, encode_request

pytestmark = pytest.mark.sockets

INFER = "/v2/models/scale/infer"
X = {"x": np.array([1, 2, 3, 4], "<f4")}
FORMS = {"json": JSON, "msgpack": MSGPACK, "framed": FRAMED}


@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("sent", FORMS)
async def test_reply_comes_in_the_form_that_accept_names(start, sent: str, asked: str) -> None:
    server = await start()
    encoded = encode_request(InferRequest(X, id="r-1", form=FORMS[sent]))
    wanted = FORMS[asked].kind.value
    headers = {"Content-Type": encoded.content_type, "Accept": wanted}
    async with server.client.post(INFER, data=encoded.body(), headers=headers) as reply:
        assert (reply.status, reply.content_type) == (200, wanted)
        response = decode_response(await reply.read(), reply.headers["Content-Type"])
    assert response.id == "r-1" and response.outputs["y"].tolist() == [2, 4]
    async with server.client.post(INFER, data=b"nonsense", headers=headers) as reply:
        assert reply.status == 400
        assert reply.content_type == ("application/json" if asked == "json" else "application/msgpack")


async def test_every_route_speaks_msgpack_to_those_who_ask_for_it(start) -> None:
    server = await start()
    headers = {"Accept": "application/msgpack"}
    model = "/v2/models/scale"
    for path in ("/", "/v2", "/v2/health/ready", model, f"{model}/ready", f"{model}/config", f"{model}/stats"):
        async with server.client.get(path, headers=headers) as reply:
            assert (reply.status, reply.content_type) == (200, "application/msgpack")
            packed = msgpack.unpackb(await reply.read())
        async with server.client.get(path) as reply:
            assert await reply.json() == packed
    body = msgpack.packb({"ready": True})
    headers = {"Content-Type": "application/msgpack"}
    async with server.client.post("/v2/repository/index", data=body, headers=headers) as reply:
        assert {entry["name"] for entry in msgpack.unpackb(await reply.read())} == {"scale", "strict", "pair"}
    for broken in (b"\xc1", b"\x81", msgpack.packb([1]), b"\x91" * 5000):
        async with server.client.post("/v2/repository/index", data=broken, headers=headers) as reply:
            assert reply.status == 400 and msgpack.unpackb(await reply.read())["reason"] == "bad_input"


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
@pytest.mark.parametrize("is_binary", [True, False])
async def test_reply_is_compressed_when_that_coding_alone_is_named(start, coding, unpack, is_binary) -> None:
    """Inference-Header-Content-Length counts the bytes without compression, as it does in requests."""
    server = await start()
    body = {
        "inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}],
        "parameters": {"binary_data_output": is_binary},
    }
    server.client._auto_decompress = False
    async with server.client.post(INFER, json=body, headers={"Accept-Encoding": coding}) as reply:
        assert (reply.status, reply.headers["Content-Encoding"]) == (200, coding)
        plain = unpack(await reply.read())
        length = reply.headers.get("Inference-Header-Content-Length")
    assert (length is not None) == is_binary
    response = decode_response(plain, reply.headers["Content-Type"], None if length is None else int(length))
    assert response.outputs["y"].tolist() == [2, 4]
    async with server.client.post(INFER, json=body, headers={"Accept-Encoding": "gzip, deflate, br"}) as reply:
        assert "Content-Encoding" not in reply.headers
    async with server.client.post(INFER, json={}, headers={"Accept-Encoding": coding}) as reply:
        assert reply.status == 400 and json.loads(await reply.read())["reason"] == "bad_input"


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        (" GZip ", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=1.0", "gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("deflate; q=0.000", None),
        ("gzip, deflate", None),
        ("gzip, deflate, br", None),
        ("br", None),
        ("*", None),
        ("gzip, *", None),
    ],
)
def test_coding_is_that_which_is_named_alone(header: str, coding: str | None) -> None:
    assert reply_coding(header) == coding
