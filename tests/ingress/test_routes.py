"""Every route over a real socket, and every way of getting one wrong."""

import gzip
import json
import zlib

import aiohttp
import msgpack
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from symphony.errors import Reason, SymphonyError
from symphony.ingress import Health
from symphony.metrics.model import Outcome

pytestmark = pytest.mark.sockets

INFER = "/v2/models/scale/infer"
BODY = {"id": "7", "inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


async def get(server, path, **options):
    async with server.client.get(path, **options) as response:
        return response.status, await response.json()


async def post(server, path, **options):
    async with server.client.post(path, **options) as response:
        return response.status, await response.json()


async def test_landing_names_the_models(start):
    status, body = await get(await start(), "/")
    assert status == 200
    assert body["models"] == ["/v2/models/pair", "/v2/models/scale", "/v2/models/strict"]


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_server_metadata(start, path):
    status, body = await get(await start(), path)
    assert (status, body["name"], body["version"]) == (200, "symphony", "0.1.0")


@pytest.mark.parametrize("prefix", ["/v2/models/scale", "/v2/models/scale/versions/1"])
async def test_model_routes_with_and_without_a_version(start, prefix):
    server = await start()
    assert (await get(server, prefix))[1]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert await get(server, f"{prefix}/ready") == (200, {"name": "scale", "ready": True})
    assert (await get(server, f"{prefix}/config"))[1]["max_batch_size"] == 8
    status, body = await post(server, f"{prefix}/infer", json=BODY)
    assert (status, body["id"], body["outputs"][0]["data"]) == (200, "7", [2, 4])
    stats = (await get(server, f"{prefix}/stats"))[1]["model_stats"]
    assert [entry["name"] for entry in stats] == ["scale"]


async def test_statistics_of_all_models(start):
    status, body = await get(await start(), "/v2/models/stats")
    assert status == 200
    assert {entry["name"] for entry in body["model_stats"]} == {"scale", "strict", "pair"}


async def test_health_says_live_and_ready(start, service):
    server = await start()
    assert await get(server, "/v2/health/live") == (200, {"live": True})
    assert await get(server, "/v2/health/ready") == (200, {"ready": True})
    service.health_now = Health(True, False, "draining")
    assert await get(server, "/v2/health/live") == (200, {"live": True})
    async with server.client.get("/v2/health/ready") as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        body = await response.json()
    assert body == {"ready": False, "error": "the server is not ready: draining", "reason": "not_ready", "model": ""}
    service.health_now = Health(False, False, "the scheduling loop ended")
    assert (await get(server, "/v2/health/live"))[0] == 503


async def test_model_that_is_loading_is_not_ready(start, service):
    server = await start()
    service.find("scale", None).state = "LOADING"
    status, body = await get(server, "/v2/models/scale/ready")
    assert (status, body["name"], body["ready"], body["reason"]) == (503, "scale", False, "not_ready")


async def test_repository_index_lists_models_and_may_leave_out_the_unready(start, service):
    server = await start()
    service.find("pair", None).state = "LOADING"
    status, body = await post(server, "/v2/repository/index")
    assert status == 200
    assert {entry["name"]: entry["state"] for entry in body} == {"scale": "READY", "strict": "READY", "pair": "LOADING"}
    assert len((await post(server, "/v2/repository/index", json={"ready": True}))[1]) == 2


async def test_load_and_unload_reach_the_service(start, service):
    server = await start()
    assert await post(server, "/v2/repository/models/scale/load") == (200, {})
    unload = {"parameters": {"unload_dependents": False}}
    assert await post(server, "/v2/repository/models/scale/unload", json=unload) == (200, {})
    assert service.calls == [("load", "scale"), ("unload", "scale")]
    status, body = await post(server, "/v2/repository/models/nope/load", json={})
    assert (status, body["reason"], body["model"]) == (404, "unknown_model", "nope")


async def test_profile_reaches_the_service_and_answers_with_what_was_measured(start, service):
    server = await start()
    assert await post(server, "/v2/repository/models/scale/profile") == (200, {"profiles": [{"model": "scale"}]})
    assert service.calls == [("profile", "scale")]
    status, body = await post(server, "/v2/repository/models/nope/profile", json={})
    assert (status, body["reason"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v2/repository/index", b"{"),
        ("/v2/repository/index", b"[]"),
        ("/v2/repository/index", b'{"ready": 1}'),
        ("/v2/repository/index", b"\xff"),
        ("/v2/repository/index", b"[" * 100_000),
        ("/v2/repository/models/scale/load", b"nonsense"),
        ("/v2/repository/models/scale/profile", b"nonsense"),
        ("/v2/repository/models/scale/load", b'{"parameters": {"file:1/model.pt2": "AAAA"}}'),
    ],
)
async def test_bad_repository_bodies_are_bad_input(start, service, path, payload):
    status, body = await post(await start(), path, data=payload)
    assert (status, body["reason"]) == (400, "bad_input")
    assert not service.calls


async def test_repository_bodies_have_a_limit_of_their_own(start):
    status, body = await post(await start(control_body_bytes_max=10), "/v2/repository/index", data=b" " * 11)
    assert (status, body["reason"]) == (413, "too_large")


async def test_metrics_are_prometheus_text_or_openmetrics(start):
    server = await start()
    await post(server, INFER, json=BODY | {"inputs": []})
    async with server.client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    rejected = [s for s in families["symphony_requests"].samples if s.labels["outcome"] == "rejected"]
    assert [(s.labels["model"], s.labels["reason"], s.value) for s in rejected] == [("scale", "bad_input", 1)]
    async with server.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/models/scale/trace/setting",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/a/register",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_extensions_that_are_not_here_are_501(start, method, path):
    server = await start()
    async with server.client.request(method, path) as response:
        assert response.status == 501
        assert "not supported" in (await response.json())["error"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing", "bad_input"),
        ("/v2/nothing", "bad_input"),
        ("/v2/models", "bad_input"),
        ("/v2/models/scale/nothing", "bad_input"),
        ("/v2/models/nope", "unknown_model"),
        ("/v2/models/nope/stats", "unknown_model"),
        ("/v2/models/scale/versions/2", "unknown_model"),
        ("/v2/models/with/slash/ready", "unknown_model"),
        ("/v2/models/with%2Fslash", "unknown_model"),
        ("/v2/models/%ff%fe", "unknown_model"),
        ("/%00", "bad_input"),
    ],
)
async def test_unknown_paths_are_404_in_json(start, path, reason):
    server = await start()
    async with server.client.get(aiohttp.client.URL(server.url + path, encoded=True)) as response:
        body = await response.json()
        assert (response.status, body["reason"]) == (404, reason), body
        assert set(body) == {"error", "reason", "model"}
        if reason == "unknown_model":
            assert 'known models: "pair", "scale", "strict"' in body["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", INFER, "POST"),
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/models/scale", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/v2/models/stats", "GET, HEAD"),
        ("PROPFIND", "/", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_405_with_allow(start, method, path, allow):
    server = await start()
    async with server.client.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == allow
        body = await response.json()
        assert body["reason"] == "bad_input"
        assert f"use {allow}" in body["error"]


async def test_error_on_any_path_is_msgpack_for_those_who_speak_it(start):
    server = await start()
    async with server.client.get("/nothing", headers={"Accept": "application/msgpack"}) as response:
        assert response.content_type == "application/msgpack"
        assert msgpack.unpackb(await response.read())["reason"] == "bad_input"


@pytest.mark.parametrize("reason", list(Reason))
async def test_every_reason_reaches_the_client_with_its_status(start, service, reason):
    server = await start()
    service.submit_error = SymphonyError(reason, "because", retry_after_s=0.2)
    async with server.client.post(INFER, json=BODY) as response:
        assert response.status == reason.http_status
        assert await response.json() == {"error": "because", "reason": reason.token, "model": "scale"}
        assert response.headers.get("Retry-After") == ("1" if reason.http_status in (429, 503) else None)


async def test_fault_in_a_route_is_a_500_in_json(start, service, caplog):
    server = await start()
    service.broken = RuntimeError("secret")
    status, body = await get(server, "/v2/models/scale")
    assert (status, body["reason"]) == (500, "worker_failed")
    assert "secret" not in body["error"]
    assert "secret" in caplog.text


async def test_msgpack_goes_in_and_comes_out(start):
    server = await start()
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": np.arange(8, dtype="<f4").tobytes()}
    headers = {"Content-Type": "application/msgpack", "X-Request-Id": "abc"}
    async with server.client.post(INFER, data=msgpack.packb({"inputs": [tensor]}), headers=headers) as response:
        assert response.status == 200
        assert response.headers["X-Request-Id"] == "abc"
        assert response.content_type == "application/msgpack"
        (output,) = msgpack.unpackb(await response.read())["outputs"]
    assert output["shape"] == [2, 2]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies_are_read(start, encoding, pack):
    server = await start()
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    status, body = await post(server, INFER, data=pack(json.dumps(BODY).encode()), headers=headers)
    assert (status, body["outputs"][0]["data"]) == (200, [2, 4])


async def test_body_that_inflates_above_the_limit_is_too_large(start, service):
    server = await start(body_bytes_max=1_000_000)
    headers = {"Content-Encoding": "gzip"}
    status, body = await post(server, INFER, data=gzip.compress(bytes(50_000_000)), headers=headers)
    assert (status, body["reason"], body["model"]) == (413, "too_large", "scale")
    assert service.stats.refused == {Reason.TOO_LARGE: 1}


async def test_unknown_encoding_is_bad_input(start):
    status, body = await post(await start(), INFER, data=b"{}", headers={"Content-Encoding": "br"})
    assert (status, body["reason"]) == (400, "bad_input")


async def test_content_type_is_not_needed(start):
    server = await start()
    async with server.client.post(
        INFER, data=json.dumps(BODY).encode(), skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 200


async def test_draining_refuses_with_retry_after(start, service):
    server = await start()
    service.submit_error = SymphonyError(Reason.DRAINING, "the node is shutting down", retry_after_s=5)
    async with server.client.post(INFER, json=BODY) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert (await response.json())["reason"] == "draining"


@pytest.mark.parametrize("headers", [{}, {"X-Request-Id": "b-7"}, {"Accept": "application/msgpack"}])
async def test_overload_is_refused_unread_and_the_connection_goes_on(start, service, headers):
    server = await start()
    model = service.find("scale", None)
    for refused in (True, False, True):
        model.refusal_error = SymphonyError(Reason.WOULD_MISS, "too much", model="scale") if refused else None
        async with server.client.post("/v2/models/scale/infer", json=BODY, headers=headers) as reply:
            assert reply.status == (503 if refused else 200)
            assert reply.headers.get("X-Request-Id") == headers.get("X-Request-Id")
            if refused:
                assert int(reply.headers["Retry-After"]) >= 1
                content = await reply.read()
                found = msgpack.unpackb(content) if "Accept" in headers else json.loads(content)
                assert found == {"error": "too much", "reason": "would_miss", "model": "scale"}
    assert model.stats.count(Outcome.REJECTED) == 2 and model.stats.in_flight == 0
