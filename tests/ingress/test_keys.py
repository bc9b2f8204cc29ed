"""Keys on a live ingress: what they open, what they do not, and that they are never seen again."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest

from symphony.config import KeyConfig, hash_key
from tests.ingress.test_connections import BODY, assert_error, head, read_response, until

pytestmark = pytest.mark.sockets

SECRET = "sym_the-secret-of-the-shop"
OTHER = "sym_of-the-managers"
INFER = "/v2/models/scale/infer"
KEYS = (
    KeyConfig("shop", hash_key(SECRET), models=("scale",)),
    KeyConfig("ops", hash_key(OTHER), scopes=("manage", "metrics"), models=("*",)),
)
SHOP, OPS = {"Authorization": f"Bearer {SECRET}"}, {"X-API-Key": OTHER}


async def post(server, path: str = INFER, **headers: str) -> tuple[int, dict, dict]:
    async with server.client.post(path, data=BODY, headers=headers) as reply:
        return reply.status, await reply.json(), dict(reply.headers)


async def status_of(server, method: str, path: str, headers: dict[str, str]) -> int:
    async with server.client.request(method, path, headers=headers) as reply:
        await reply.read()
        return reply.status


async def test_call_without_a_key_is_unauthorized(start, service):
    server = await start(keys=KEYS)
    status, body, headers = await post(server)
    assert (status, body["reason"], headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
    assert not service.submitted
    assert {reason.token: count for reason, count in service.stats.refused.items()} == {"unauthorized": 1}


async def test_key_opens_its_models_and_no_others(start, service):
    server = await start(keys=KEYS)
    assert (await post(server, **SHOP))[0] == 200
    assert (await post(server, **{"X-API-Key": SECRET}))[0] == 200
    status, body, _ = await post(server, "/v2/models/pair/infer", **SHOP)
    assert (status, body["reason"], body["model"]) == (403, "forbidden", "pair")
    status, body, _ = await post(server, **OPS)
    assert (status, body["reason"]) == (403, "forbidden")
    assert len(service.submitted) == 4


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/health/live", "everybody"),
        ("GET", "/v2/health/ready", "everybody"),
        ("GET", "/v2", "everybody"),
        ("GET", "/", "shop"),
        ("GET", "/v2/models/scale", "shop"),
        ("GET", "/v2/models/scale/ready", "shop"),
        ("GET", "/v2/models/scale/config", "shop"),
        ("GET", "/v2/models/scale/stats", "ops"),
        ("GET", "/v2/models/stats", "ops"),
        ("GET", "/metrics", "ops"),
        ("POST", "/v2/repository/index", "ops"),
        ("POST", "/v2/repository/models/scale/load", "ops"),
        ("POST", "/v2/repository/models/scale/unload", "ops"),
    ],
)
async def test_each_route_needs_its_scope(start, service, method, path, allowed):
    server = await start(keys=KEYS)
    assert await status_of(server, method, path, {}) == (200 if allowed == "everybody" else 401)
    assert await status_of(server, method, path, SHOP) == (200 if allowed in ("everybody", "shop") else 403)
    assert await status_of(server, method, path, OPS) == (200 if allowed in ("everybody", "ops") else 403)
    assert len(service.calls) == (1 if path.endswith("load") else 0)


async def test_models_that_a_key_may_not_use_are_not_named_to_it(start):
    keys = (KeyConfig("shop", hash_key(SECRET), models=("scale", "mine*")),)
    server = await start(keys=keys)
    for path in ("/v2/models/mine/infer", "/v2/models/scale/versions/7/infer"):
        _, body, _ = await post(server, path, **SHOP)
        assert body["reason"] == "unknown_model"
        assert "pair" not in json.dumps(body)
    for path in ("/", "/v2/models/mine", "/v2/models/mine/nothing"):
        async with server.client.get(path, headers=SHOP) as reply:
            assert "pair" not in await reply.text()
    async with server.client.get("/v2/models/mine/nothing") as reply:
        assert "scale" not in await reply.text()


async def test_body_of_a_call_without_a_key_is_not_waited_for(start):
    server = await start(keys=KEYS, lingering_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(50_000_000))
    assert_error(await read_response(reader), 401, "unauthorized")
    assert server.exchanges.body_bytes == 0
    writer.close()


async def test_rate_of_a_key_is_kept_and_its_wait_is_said(start):
    server = await start(keys=(KeyConfig("shop", hash_key(SECRET), rate=0.5, burst=4.0),))
    statuses = [(await post(server, **SHOP))[0] for _ in range(2)]  # two requests in each call
    status, body, headers = await post(server, **SHOP)
    assert (statuses, status, body["reason"]) == ([200, 200], 429, "rate_limited")
    assert int(headers["Retry-After"]) in (1, 2)


async def test_calls_of_a_key_in_flight_are_limited_and_others_go_on(start, service):
    keys = (KeyConfig("shop", hash_key(SECRET), in_flight_max=2), KeyConfig("ops", hash_key(OTHER)))
    server = await start(keys=keys)
    service.mode = "never"
    waiting = [asyncio.create_task(post(server, **SHOP)) for _ in range(2)]
    await until(lambda: len(service.inside) == 4)
    assert (await post(server, **SHOP))[0] == 429
    service.mode = "soon"
    assert (await post(server, **OPS))[0] == 200
    for request in list(service.inside):
        service.finish(request)
    assert [(await task)[0] for task in waiting] == [200, 200]
    assert (await post(server, **SHOP))[0] == 200


async def test_keys_are_exchanged_while_connections_stay(start):
    server = await start(keys=KEYS)
    assert (await post(server, **SHOP))[0] == 200
    server.exchanges.callers.replace(KEYS[1:])
    assert (await post(server, **SHOP))[0] == 401
    server.exchanges.callers.replace(KEYS)
    assert (await post(server, **SHOP))[0] == 200


async def test_request_id_is_echoed_on_refusals(start):
    server = await start(keys=KEYS)
    _, _, headers = await post(server, **{"X-Request-Id": "abc"})
    assert headers.get("X-Request-Id", "abc") == "abc"


async def test_keys_are_in_no_log_answer_or_metric(start, service, caplog):
    """Neither a good one nor what was tried in vain, whatever went wrong."""
    caplog.set_level(logging.DEBUG)
    server = await start(keys=KEYS)
    texts = []
    for headers in (SHOP, {"X-API-Key": SECRET}, {"Authorization": f"Basic {SECRET}"}, {"X-API-Key": f"{SECRET}x"}):
        for path in (INFER, "/v2/models/no/infer", "/v2/models/scale", "/nothing", "/v2/models/pair/infer"):
            for method in ("POST", "GET"):
                async with server.client.request(method, path, data=BODY, headers=headers) as reply:
                    texts.append(f"{reply.headers} {await reply.text()}")
    service.broken = RuntimeError("broken")
    texts.append(str(await post(server, **SHOP)))
    service.broken = None
    async with server.client.get("/metrics", headers=OPS) as reply:
        texts.append(await reply.text())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"POST {INFER} HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\nbad header\r\n\r\n".encode())
    texts.append(str(await read_response(reader)))
    writer.close()
    assert "secret-of-the-shop" not in "\n".join(texts) + caplog.text


async def test_managers_port_has_what_the_other_has_not(start):
    main = await start(scopes=frozenset(("infer", None)))
    for method, path in (("POST", "/v2/repository/models/scale/load"), ("GET", "/metrics")):
        assert await status_of(main, method, path, {}) == 404
    assert (await post(main))[0] == 200


async def test_port_for_managers_alone_does_not_infer(start):
    """With aiohttp alone, as a node opens it."""
    server = await start(scopes=frozenset(("manage", "metrics", None)))
    assert await status_of(server, "GET", "/metrics", {}) == 200
    assert await status_of(server, "POST", "/v2/repository/models/scale/load", {}) == 200
    assert await status_of(server, "GET", "/v2/models/scale", {}) == 404


async def test_wrong_keys_leave_nothing_behind(start):
    server = await start(keys=KEYS)
    callers = server.exchanges.callers
    async with aiohttp.ClientSession() as session:
        for number in range(300):
            headers = {"X-API-Key": f"wrong {number}"}
            async with session.post(f"{server.url}{INFER}", data=BODY, headers=headers) as reply:
                assert reply.status == 401
    assert len(callers._by_text) == 0
