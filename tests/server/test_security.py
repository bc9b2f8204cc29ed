"""A node with keys, TLS and a port for managers, as `symphony serve` opens it; and what no request can reach."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from click.testing import CliRunner

import symphony
from symphony.cli.main import cli
from symphony.client import AsyncClient, Client, TransportError
from symphony.config import NodeConfig, hash_key, parse_keys
from symphony.errors import ConfigError, Reason, SymphonyError
from symphony.server.front import is_loopback
from symphony.server.tls import Certificate
from tests.server.conftest import write_echo
from tests.server.test_serve import running

sockets = pytest.mark.sockets
X = {"x": np.ones(8, np.float32)}


def new_key(*arguments: str) -> str:
    """Make a key as people do; return it."""
    done = CliRunner().invoke(cli, ["keys", "new", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_new_key_is_shown_once_and_kept_as_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = new_key("shop", "--file", str(file), "--model", "a*", "--model", "b", "--rate", "5", "--weight", "2.5")
    second = new_key("ops", "--file", str(file), "--scope", "manage", "--scope", "metrics")
    assert first.startswith("sym_")
    assert len(first) >= 40
    text = file.read_text()
    assert first not in text
    assert second not in text
    shop, ops = parse_keys(text, "keys.toml")
    assert (shop.name, shop.sha256, shop.models, shop.rate, shop.weight) == (
        "shop",
        hash_key(first),
        ("a*", "b"),
        5,
        2.5,
    )
    assert ops.scopes == ("manage", "metrics")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize(
    "arguments", [("shop",), ("new name",), ("other", "--scope", "root"), ("other", "--burst", "3")]
)
def test_key_that_cannot_be_is_refused_and_the_file_stays(arguments: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    new_key("shop", "--file", str(file))
    before = file.read_text()
    with pytest.raises(ConfigError, match=r"keys.toml"):
        CliRunner().invoke(cli, ["keys", "new", *arguments, "--file", str(file)], catch_exceptions=False)
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@sockets
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "anybody who reaches 0.0.0.0 may use this node, load and unload models"),
        ({"management_port": 0}, "anybody who reaches 0.0.0.0 may use this node:"),
        ({"management_port": 0, "management_host": "0.0.0.0"}, "anybody who reaches 0.0.0.0 may load"),
        ({"keys": "keys.toml"}, "keys come to 0.0.0.0 in clear text"),
    ],
)
async def test_node_that_strangers_reach_says_what_they_may_do(
    settings: dict[str, Any], said: str, tmp_path: Path, run_node: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    if "keys" in settings:
        settings = settings | {"keys": tmp_path / "keys.toml"}
        new_key("shop", "--file", str(settings["keys"]))
    async with run_node(host="0.0.0.0", **settings):
        pass
    assert said in caplog.text


@sockets
async def test_node_on_this_machine_alone_warns_of_nothing(
    run_node: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with run_node():
        pass
    assert "anybody" not in caplog.text


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[trustme.CA, Path, Path]]:
    """Return an authority, and where the node's certificate and key are."""
    ca = trustme.CA()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    write_certificate(ca, chain, key)
    yield ca, chain, key


def write_certificate(ca: trustme.CA, chain: Path, key: Path) -> None:
    issued = ca.issue_cert("127.0.0.1")
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@sockets
async def test_node_serves_over_tls_with_keys_and_a_port_for_managers(
    tmp_path: Path, authority: tuple[trustme.CA, Path, Path]
) -> None:
    """As a process: the client of the package knows both; SIGHUP or a look a second later takes up a new key."""
    ca, chain, key = authority
    models, keys = tmp_path / "models", tmp_path / "keys.toml"
    write_echo(models)
    shop = new_key("shop", "--file", str(keys))
    flags = ["--keys", str(keys), "--tls-cert", str(chain), "--tls-key", str(key), "--management-port", "0"]
    with running(models, *flags) as (_, url):
        assert url.startswith("https://")
        async with AsyncClient(url, tls=trusting(ca), api_key=shop) as client:
            assert (await client.infer("echo", X))["y"][0] == 1
            with pytest.raises(SymphonyError) as refused:
                await client.load("echo")
            assert "nothing at /v2/repository" in refused.value.message
        async with AsyncClient(url, tls=trusting(ca)) as stranger:
            with pytest.raises(SymphonyError) as refused:
                await stranger.infer("echo", X)
            assert refused.value.reason is Reason.UNAUTHORIZED
        later = new_key("later", "--file", str(keys))
        async with AsyncClient(url, tls=trusting(ca), api_key=later) as client, asyncio.timeout(10):
            while True:
                try:
                    await client.infer("echo", X)
                    break
                except SymphonyError as error:
                    assert error.reason is Reason.UNAUTHORIZED
                    await asyncio.sleep(0.1)
        with Client(url, tls=ssl.create_default_context()) as client, pytest.raises(TransportError):
            client.infer("echo", X)


@sockets
async def test_managers_port_loads_and_shows_metrics(run_node: Callable[..., Any], tmp_path: Path) -> None:
    write_echo(tmp_path / "models")
    keys = tmp_path / "keys.toml"
    ops = new_key("ops", "--file", str(keys), "--scope", "manage", "--scope", "metrics")
    async with run_node(keys=keys, management_port=0) as node:
        headers = {"Authorization": f"Bearer {ops}"}
        base = f"http://127.0.0.1:{node.front.management_port}"
        for path, status in (("/metrics", 200), ("/v2/health/ready", 200), ("/v2/models/echo", 404)):
            async with node.session.get(base + path, headers=headers) as reply:
                assert reply.status == status, path
        async with node.session.post(f"{base}/v2/repository/models/echo/load", headers=headers) as reply:
            assert reply.status == 200
        async with node.session.post(f"{base}/v2/repository/models/echo/load") as reply:
            assert reply.status == 401


@sockets
async def test_faulty_keys_leave_the_old_ones_in_use(
    run_node: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_echo(tmp_path / "models")
    keys = tmp_path / "keys.toml"
    shop = new_key("shop", "--file", str(keys))
    async with run_node(keys=keys) as node:
        for text in ("no toml", '[[keys]]\nname = "x"\nsha256 = "sym_secret"\n'):
            keys.write_text(text)
            node.front.reload()
            assert "the old keys stay in use" in caplog.text
            assert "sym_secret" not in caplog.text
            async with AsyncClient(node.url, api_key=shop) as client:
                await client.infer("echo", X)
        keys.write_text("")
        node.front.reload()
        async with AsyncClient(node.url, api_key=shop) as client:
            with pytest.raises(SymphonyError):
                await client.infer("echo", X)


@sockets
async def test_certificate_is_renewed_while_serving_and_a_faulty_one_changes_nothing(
    run_node: Callable[..., Any], tmp_path: Path, authority: tuple[trustme.CA, Path, Path]
) -> None:
    ca, chain, key = authority
    write_echo(tmp_path / "models")
    async with run_node(tls_cert=chain, tls_key=key) as node:
        url = node.url.replace("http:", "https:")

        async def is_trusted(by: trustme.CA) -> bool:
            async with AsyncClient(url, tls=trusting(by)) as client:
                try:
                    await client.infer("echo", X)
                except TransportError:
                    return False
                return True

        assert await is_trusted(ca)
        other = trustme.CA()
        before = chain.read_bytes()
        chain.write_bytes(other.issue_cert("127.0.0.1").cert_chain_pems[0].bytes())  # the key is another's
        node.front.reload()
        assert await is_trusted(ca)
        chain.write_bytes(before)
        write_certificate(other, chain, key)
        node.front.reload()
        assert await is_trusted(other)
        assert not await is_trusted(ca)


@sockets
async def test_client_without_a_certificate_is_refused_where_one_is_asked_for(
    run_node: Callable[..., Any], tmp_path: Path, authority: tuple[trustme.CA, Path, Path]
) -> None:
    ca, chain, key = authority
    write_echo(tmp_path / "models")
    of_clients = trustme.CA()
    (tmp_path / "clients.pem").write_bytes(of_clients.cert_pem.bytes())
    async with run_node(tls_cert=chain, tls_key=key, tls_client_ca=tmp_path / "clients.pem") as node:
        url = node.url.replace("http:", "https:")
        known = trusting(ca)
        of_clients.issue_cert("client@example.org").configure_cert(known)
        async with AsyncClient(url, tls=known) as client:
            await client.infer("echo", X)
        async with AsyncClient(url, tls=trusting(ca)) as client:
            with pytest.raises(TransportError):
                await client.infer("echo", X)


def test_old_protocols_are_not_spoken(authority: tuple[trustme.CA, Path, Path]) -> None:
    _, chain, key = authority
    assert Certificate(chain, key).context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("fault", ["missing", "swapped", "empty"])
def test_certificate_that_cannot_be_used_is_said(fault: str, authority: tuple[trustme.CA, Path, Path]) -> None:
    _, chain, key = authority
    if fault == "missing":
        key.unlink()
    elif fault == "swapped":
        chain, key = key, chain
    else:
        chain.write_text("")
    with pytest.raises(ConfigError, match=r"tls_cert .*chain.pem|tls_cert .*key.pem") as caught:
        Certificate(chain, key)
    assert "PRIVATE" not in str(caught.value)


@sockets
@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/x", "/etc/passwd", "a%00b", "~root"]
)
async def test_no_request_names_a_file(path: str, run_node: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is opened, for whatever name in whatever place, but what lies in the repository."""
    write_echo(tmp_path / "models")
    opened: list[str] = []
    is_on = True

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
            opened.append(os.fspath(arguments[0]))

    async with run_node(record=None) as node:
        sys.addaudithook(audit)
        for method, place in [
            ("GET", "/v2/models/{}"),
            ("GET", "/v2/models/{}/config"),
            ("GET", "/v2/models/echo/versions/{}"),
            ("POST", "/v2/models/{}/infer"),
            ("POST", "/v2/models/echo/versions/{}/infer"),
            ("POST", "/v2/repository/models/{}/load"),
            ("POST", "/v2/repository/models/{}/unload"),
            ("GET", "/{}"),
        ]:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.front.port)
            writer.write(f"{method} {place.format(path)} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            async with asyncio.timeout(5):
                status = (await reader.readline()).split()[1]
            assert status in (b"400", b"404", b"405"), place
            writer.close()
    is_on = False
    outside = [
        name for name in opened if not name.startswith((str(tmp_path), sys.prefix, sys.base_prefix, "/proc/self"))
    ]
    assert [name for name in outside if "passwd" in name or ".." in name or "root" in name] == []
    assert not any("passwd" in name for name in opened)


ROOT = Path(symphony.__file__).parent
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    """No module imports what makes objects of bytes; torch and numpy load arrays alone; nothing evaluates text."""
    faults = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in UNSAFE_MODULES for name in names):
                faults.append(f"{path}:{node.lineno} imports {names}")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if called in ("eval", "exec") or (called == "torch.load" and keywords.get("weights_only") != "True"):
                    faults.append(f"{path}:{node.lineno} calls {called}")
                if keywords.get("allow_pickle", "False") != "False":
                    faults.append(f"{path}:{node.lineno} allows pickles")
    assert faults == []


def test_limits_that_others_control_have_defaults() -> None:
    config = NodeConfig()
    assert config.host == config.management_host == "127.0.0.1"
    assert 0 < config.connection_count_max <= 1 << 20
    assert 0 < config.header_timeout_s <= config.body_timeout_s <= config.keepalive_timeout_s
