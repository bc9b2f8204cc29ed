"""Getting into etcd: users and their tokens, TLS with certificates on both sides, and servers that are no etcd."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from symphony.cluster import CoordinatorRefused, CoordinatorUnavailable, NodeRecord
from symphony.cluster.faults import StoreUnavailable
from symphony.cluster.store import Area
from symphony.coordination import Coordinator, open_coordinator
from symphony.coordination.address import EtcdAddress, parse_address
from symphony.coordination.etcd import EtcdStore, gateway
from symphony.errors import ConfigError
from tests.coordination.conftest import TTL, wait_for
from tests.coordination.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.sockets

PASSWORD = "correct horse/battery:staple@5%"
ALICE = NodeRecord("alice", "a:1")
TOKEN_S = 2


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Coordinator]:
    node = await open_coordinator(url)
    try:
        yield node
    finally:
        await node.close()


# Users


@pytest.fixture(scope="module")
def guarded(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """An etcd with a user `node` who may use the keys under /mine/ only; tokens live two seconds."""
    cluster = EtcdCluster(
        etcd_binary,
        tmp_path_factory.mktemp("guarded"),
        1,
        ("--auth-token-ttl", str(TOKEN_S), "--bcrypt-cost", "4"),
    )
    try:
        cluster.start()
        cluster.wait_until_ready()
        first, end = (base64.b64encode(key).decode() for key in (b"/mine/", b"/mine0"))
        for path, body in [
            ("user/add", {"name": "root", "password": "root"}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "node", "password": PASSWORD}),
            ("role/add", {"name": "node"}),
            ("role/grant", {"name": "node", "perm": {"permType": 2, "key": first, "range_end": end}}),
            ("user/grant", {"user": "node", "role": "node"}),
            ("enable", {}),
        ]:
            cluster.post(0, f"/v3/auth/{path}", body)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def url(guarded: EtcdCluster, tmp_path: Path) -> str:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return f"etcd://node@{guarded.hosts}/mine?ttl_s=1&password_file={tmp_path / 'password'}"


def token(node: Coordinator) -> str:
    """Return the login's token that a node uses at present."""
    return node._store._gateway._token  # type: ignore[attr-defined, no-any-return]


@pytest.mark.slow
async def test_login_is_renewed_when_its_token_expires(url: str) -> None:
    async with opened(url) as node:
        watch = node.models()
        await watch.fresh()
        tokens = set()
        for number in range(2):
            await node.put(f"m{number}/1", {})
            tokens.add(token(node))
            await asyncio.sleep(TOKEN_S + 1.5)  # unused: etcd prolongs a token that is in use
        await wait_for(watch, lambda snapshot: len(snapshot.items) == 2)
        for number in range(2):
            found = await node.get(f"m{number}/1")
            assert found is not None
            await node.remove(f"m{number}/1", found.revision)
        assert len(tokens | {token(node)}) == 3


async def test_member_and_leader_keep_their_leases_when_logged_in(url: str) -> None:
    async with opened(url) as node:
        membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
        await asyncio.sleep(2.5)
        assert membership.is_held()
        assert leadership.is_held()


async def test_restart_of_the_member_costs_no_write_when_logged_in(guarded: EtcdCluster, url: str) -> None:
    async with opened(url) as node:
        revision = await node.put("m/1", {})
        guarded.kill(0)
        guarded.start()
        await node.put("m/1", {"n": 1}, revision)
        found = await node.get("m/1")
        assert found is not None
        await node.remove("m/1", found.revision)


@pytest.mark.parametrize("operation", ["join", "put", "campaign"])
async def test_wrong_password_is_refused_at_once_and_not_shown(guarded: EtcdCluster, operation: str) -> None:
    began = time.monotonic()
    async with opened(f"etcd://node:wr0ng@{guarded.hosts}/mine") as node:
        calls: dict[str, Callable[[], Any]] = {
            "join": lambda: node.join(ALICE),
            "put": lambda: node.put("m/1", {}),
            "campaign": lambda: node.campaign(ALICE),
        }
        with pytest.raises(CoordinatorRefused, match="refused the login of user 'node'") as caught:
            await calls[operation]()
        assert "wr0ng" not in str(caught.value)
    assert time.monotonic() - began < 5


async def test_keys_of_others_are_refused_and_a_watch_of_them_says_so(guarded: EtcdCluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    async with opened(f"etcd://node@{guarded.hosts}/others?password_file={tmp_path / 'password'}") as node:
        with pytest.raises(CoordinatorRefused, match="permission denied"):
            await node.put("m/1", {})
        watch = node.models()
        async with asyncio.timeout(5):
            while "permission denied" not in watch.latest.stale_reason:
                await watch.next()


async def test_no_user_where_one_is_needed_is_refused(guarded: EtcdCluster) -> None:
    async with opened(f"etcd://{guarded.hosts}/mine") as node:
        with pytest.raises(CoordinatorRefused, match=r"user name is empty|give a user"):
            await node.put("m/1", {})


async def test_user_where_there_are_none_is_refused(etcd: EtcdCluster) -> None:
    async with opened(f"etcd://node:secret@{etcd.hosts}") as node:
        with pytest.raises(CoordinatorRefused, match="authentication is not enabled"):
            await node.put("m/1", {})


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate, one for 127.0.0.1, a client's, and another authority's."""
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "node.example")):
        certificate = authority.issue_cert(identity)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(folder / f"{name}.pem", append=True)
    return folder


@pytest.fixture(scope="module")
def encrypted(etcd_binary: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """An etcd that speaks TLS only, with clients that show a certificate of the same authority."""
    cluster = EtcdCluster(
        etcd_binary,
        tmp_path_factory.mktemp("encrypted"),
        1,
        tls_flags=(
            *("--cert-file", str(certificates / "server.pem"), "--key-file", str(certificates / "server.key")),
            *("--trusted-ca-file", str(certificates / "ca.pem"), "--client-cert-auth"),
        ),
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


async def test_both_sides_show_their_certificates(encrypted: EtcdCluster, certificates: Path) -> None:
    files = f"ca={certificates}/ca.pem&cert={certificates}/client.pem&key={certificates}/client.key"
    async with opened(f"etcds://{encrypted.hosts}?ttl_s=5&{files}") as node:
        membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
        await wait_for(node.members(), lambda snapshot: snapshot.items == {ALICE.id: ALICE})
        await node.put("m/1", {})
        await wait_for(node.models(), lambda snapshot: snapshot.items)
        assert membership.is_held()
        assert leadership.is_held()


@pytest.mark.parametrize(
    ("scheme", "options", "said"),
    [
        ("etcds", "ca={folder}/ca.pem", "certificate required|alert|closed|reset|disconnected"),
        ("etcds", "ca={folder}/other-ca.pem", "certificate verify failed"),
        ("etcds", "", "certificate verify failed"),
        ("etcd", "", "disconnected|400|Client sent an HTTP request|closed"),
    ],
)
async def test_whoever_is_not_trusted_gets_nowhere_and_is_told_why(
    encrypted: EtcdCluster, certificates: Path, scheme: str, options: str, said: str
) -> None:
    async with opened(
        f"{scheme}://{encrypted.hosts}?ttl_s=1&{options.format(folder=certificates)}".rstrip("&")
    ) as node:
        with pytest.raises((CoordinatorUnavailable, CoordinatorRefused), match=said):
            await node.put("m/1", {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ca={folder}/none.pem", "ca=.*none.pem is no file of certificates"),
        ("ca={folder}/server.key", "is no file of certificates"),
        ("cert={folder}/client.pem&key={folder}/server.key", "not a certificate and its key"),
    ],
)
async def test_files_that_cannot_be_used_are_named_at_start(certificates: Path, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await open_coordinator(f"etcds://127.0.0.1:1?{options.format(folder=certificates)}")


# Servers that misbehave

Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def serving(handler: Handler, user: str = "", password: str = "") -> AsyncIterator[EtcdStore]:
    """A store whose etcd answers everything by `handler`."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    address = EtcdAddress((f"http://{host}:{port}",), "p", TTL, user, password)
    store = EtcdStore(address, watch_idle_s=0.5)
    try:
        yield store
    finally:
        await store.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, b"<html>", CoordinatorRefused, "something else than a JSON object"),
        (200, b"[1]", CoordinatorRefused, "something else than a JSON object"),
        (200, b"[" * 100_000, CoordinatorRefused, "something else than a JSON object"),
        (200, b'{"header":{}}', CoordinatorRefused, "header.revision"),
        (200, b'{"header":{"revision":"x"}}', CoordinatorRefused, "header.revision"),
        (200, b'{"header":{"revision":"1"},"kvs":[{"key":3}]}', CoordinatorRefused, "not base64"),
        (404, b"404 page not found", CoordinatorRefused, "etcd 3.4 or newer"),
        (502, b"<html>bad gateway</html>", StoreUnavailable, "502"),
        (503, b'{"error":"etcdserver: no leader","code":14}', StoreUnavailable, "no leader"),
        (400, b'{"error":"etcdserver: unheard of","code":3}', CoordinatorRefused, "unheard of"),
        (302, b"{}", CoordinatorRefused, "302"),
    ],
)
async def test_answer_that_is_none_is_our_own_error(
    status: int, body: bytes, error: type[Exception], said: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere"} if status == 302 else None)

    async with serving(answer) as store:
        with pytest.raises(error, match=said):
            await store.entries(Area.MODELS)


async def test_login_that_is_given_and_never_taken_is_refused_after_one_more_try() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path.endswith("authenticate"):
            return web.json_response({"token": f"t{len(asked)}"})
        return web.json_response({"error": "etcdserver: invalid auth token", "code": 16}, status=401)

    async with serving(answer, "node", "secret") as store:
        with pytest.raises(CoordinatorRefused, match="does not take the login that it has just given"):
            await store.read(Area.MODELS, "m/1")
    assert asked == ["/v3/auth/authenticate", "/v3/kv/range"] * 2


async def test_answer_without_end_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "ANSWER_BYTES_MAX", 100_000)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 10_000)
        return response

    async with serving(answer) as store:
        with pytest.raises(CoordinatorRefused, match="100000 bytes"):
            await store.read(Area.MODELS, "m/1")


async def test_server_that_does_not_answer_costs_one_attempts_time() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(10)
        return web.Response()

    async with serving(answer) as store:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            await store.read(Area.MODELS, "m/1")
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            await anext(store.watch(Area.MODELS, "1"))
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}\n', StoreUnavailable),
        (b'{"result":{"canceled":true,"cancel_reason":"who knows"}}\n', StoreUnavailable),
        (b'{"result":{"canceled":true,"cancel_reason":"permission denied"}}\n', CoordinatorRefused),
        (b'{"result":3}\n', CoordinatorRefused),
        (b"nonsense\n", CoordinatorRefused),
        (b"", StoreUnavailable),
    ],
)
async def test_watch_that_cannot_be_is_our_own_error(lines: bytes, error: type[Exception]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=lines)

    async with serving(answer) as store:
        with pytest.raises(error):
            await anext(store.watch(Area.MODELS, "1"))


async def test_changes_of_one_revision_come_as_one_batch_although_they_are_sent_in_parts() -> None:
    def event(name: str, revision: int) -> str:
        key = base64.b64encode(f"/p/models/{name}".encode()).decode()
        return f'{{"kv":{{"key":"{key}","mod_revision":"{revision}","value":"e30="}}}}'

    lines = [
        '{"result":{"created":true}}',
        f'{{"result":{{"fragment":true,"events":[{event("a/1", 7)}]}}}}',
        f'{{"result":{{"events":[{event("b/1", 7)}]}}}}',
    ]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="\n".join(lines) + "\n")

    async with serving(answer) as store:
        batches = [batch async for batch in store.watch(Area.MODELS, "6")]
    assert [[entry.name for entry in batch.put] for batch in batches] == [[], ["a/1", "b/1"]]
    assert [batch.cursor for batch in batches] == ["6", "7"]


def test_plain_address_has_no_tls_and_an_encrypted_one_checks_hosts() -> None:
    plain, encrypted = (parse_address(f"{scheme}://h") for scheme in ("etcd", "etcds"))
    assert isinstance(plain, EtcdAddress)
    assert isinstance(encrypted, EtcdAddress)
    assert gateway.tls_context(plain) is None
    context = gateway.tls_context(encrypted)
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
