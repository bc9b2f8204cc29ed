"""The gRPC port of a node with keys: it opens what HTTP opens to the same key, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from symphony.config import KeyConfig, NodeConfig, hash_key
from symphony.errors import ConfigError
from symphony.server.front import Front
from symphony.server.node import Node
from tests.server.conftest import write_echo

grpc = pytest.importorskip("grpc", reason="tritonclient[grpc] is not installed")
pb = pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=ImportError)
pb_grpc = pytest.importorskip("tritonclient.grpc.service_pb2_grpc", exc_type=ImportError)
gate = pytest.importorskip("symphony.ingress.grpc.gate", exc_type=ImportError)

pytestmark = [pytest.mark.sockets]
KEYS = (
    KeyConfig("shop", hash_key("sym_shop"), models=("echo",)),
    KeyConfig("slow", hash_key("sym_slow"), rate=0.01, burst=2),
    KeyConfig("ops", hash_key("sym_ops"), scopes=("manage", "metrics")),
)
SHOP, SLOW, OPS = ((("authorization", f"Bearer sym_{name}"),) for name in ("shop", "slow", "ops"))


def text_of(keys: tuple[KeyConfig, ...]) -> str:
    lines = []
    for key in keys:
        scopes, models = ([f'"{each}"' for each in many] for many in (key.scopes, key.models))
        lines += [f'[[keys]]\nname = "{key.name}"\nsha256 = "{key.sha256}"']
        lines += [f"scopes = [{', '.join(scopes)}]\nmodels = [{', '.join(models)}]"]
        lines += [f"rate = {key.rate}\nburst = {key.burst}"] if key.rate else []
    return "\n".join(lines)


def request_of(model: str = "echo", rows: int = 1):
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(32 * rows)])
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 8])
    return request


async def code_of(call) -> tuple[Any, str]:
    """Return how a call ends that must not end well: its code and its token."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    trailers = dict(failed.value.trailing_metadata() or ())
    return failed.value.code().name, trailers.get("symphony-reason", "")


@pytest.fixture
async def opened(run_node: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that starts a node with keys: it, a channel, a stub; all is at rest afterwards."""
    write_echo(tmp_path / "models")
    write_echo(tmp_path / "models", "other")
    keys = tmp_path / "keys.toml"
    keys.write_text(text_of(KEYS))
    contexts: list[Any] = []

    async def start(**settings: Any):
        contexts.append(run_node(keys=keys, grpc_port=0, **settings))
        node = await contexts[-1].__aenter__()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{node.front.grpc.port}")
        contexts.append(channel)
        await channel.__aenter__()
        started.append(node)
        return node, channel, pb_grpc.GRPCInferenceServiceStub(channel)

    started: list[Any] = []
    yield start
    for node in started:
        assert len(node.node._table) == 0
        assert node.node.find("echo", None).door.shares.inside_count == 0
    for context in reversed(contexts):
        await context.__aexit__(None, None, None)


async def test_call_without_a_known_key_ends_before_its_message_is_read(opened) -> None:
    """The message is never sent, and the call ends all the same; health needs no key."""
    _, channel, stub = await opened()
    for metadata in ((), (("x-api-key", "sym_wrong"),)):
        for method in ("ModelInfer", "ModelStreamInfer", "ModelMetadata", "RepositoryIndex"):
            call = channel.stream_unary(f"/inference.GRPCInferenceService/{method}")(metadata=metadata, timeout=5)
            assert await code_of(call) == ("UNAUTHENTICATED", "unauthorized"), method
        assert await code_of(stub.ModelInfer(request_of(), metadata=metadata)) == ("UNAUTHENTICATED", "unauthorized")
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).name == "symphony"


async def test_key_opens_over_grpc_what_it_opens_over_http(opened) -> None:
    _, _, stub = await opened()
    for metadata in (SHOP, (("x-api-key", "sym_shop"),)):
        assert len((await stub.ModelInfer(request_of(), metadata=metadata)).raw_output_contents[0]) == 8
    assert await code_of(stub.ModelInfer(request_of("other"), metadata=SHOP)) == ("PERMISSION_DENIED", "forbidden")
    assert (await stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"), metadata=SHOP)).name == "echo"
    denied = [
        stub.ModelMetadata(pb.ModelMetadataRequest(name="other"), metadata=SHOP),
        stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=SHOP),
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="echo"), metadata=SHOP),
        stub.ModelInfer(request_of(), metadata=OPS),
    ]
    for call in denied:
        assert await code_of(call) == ("PERMISSION_DENIED", "forbidden")
    assert len((await stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=OPS)).models) == 2
    assert len((await stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=OPS)).model_stats) == 2


async def test_models_that_a_key_may_not_use_are_not_named_to_it(opened) -> None:
    _, _, stub = await opened()
    for call in (
        stub.ModelInfer(pb.ModelInferRequest(model_name="echo", model_version="9"), metadata=SHOP),
        stub.ModelMetadata(pb.ModelMetadataRequest(name="echo", version="9"), metadata=SHOP),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="is not served here") as failed:
            await call
        assert '"echo"' in failed.value.details()
        assert "other" not in failed.value.details()


async def test_rate_of_a_key_is_kept_by_requests(opened) -> None:
    """Two rows spend both tokens; then the wait for the next is said."""
    _, _, stub = await opened()
    await stub.ModelInfer(request_of(rows=2), metadata=SLOW)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.ModelInfer(request_of(), metadata=SLOW)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(failed.value.trailing_metadata())
    assert trailers["symphony-reason"] == "rate_limited"
    assert 50_000 < int(trailers["retry-after-ms"]) <= 100_000


async def test_key_taken_away_is_refused_on_an_open_stream(opened, tmp_path: Path) -> None:
    node, _, stub = await opened()
    stream = stub.ModelStreamInfer(metadata=SHOP)
    await stream.write(request_of())
    assert (await stream.read()).error_message == ""
    await stream.write(request_of("other"))
    assert "may not use" in (await stream.read()).error_message
    (tmp_path / "keys.toml").write_text(text_of(KEYS[1:]))
    node.front.reload()
    await stream.write(request_of())
    assert "not known here" in (await stream.read()).error_message
    await stream.done_writing()


async def test_calls_under_way_are_the_callers_own(opened) -> None:
    """What is under way counts for the key; when the client leaves, nothing does."""
    node, _, stub = await opened()
    shares = node.node.find("echo", None).door.shares
    calls = [stub.ModelInfer(request_of(rows=4), metadata=SHOP) for _ in range(3)]
    async with asyncio.timeout(5):
        while not shares.inside_count:
            await asyncio.sleep(0)
        assert list(shares._by_caller) == ["key:shop"]
        for call in calls:
            call.cancel()
        while shares.inside_count or len(node.node._table):
            await asyncio.sleep(0.01)


async def test_managers_calls_are_on_their_own_port_alone(opened) -> None:
    _, _, stub = await opened(management_port=0)
    for call in (
        stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=OPS),
        stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=OPS),
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="echo"), metadata=OPS),
    ):
        assert (await code_of(call))[0] == "UNIMPLEMENTED"
    await stub.ModelInfer(request_of(), metadata=SHOP)


async def test_grpc_beside_tls_is_refused_at_the_start(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    issued = trustme.CA().issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    write_echo(tmp_path / "models")
    config = NodeConfig(port=0, grpc_port=0, repository=tmp_path / "models", tls_cert=chain, tls_key=key)
    with pytest.raises(ConfigError, match=r"speaks no TLS.*leave --grpc-port out"):
        await Front.open(Node(config, lambda error: None), config)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5000", ("10.0.0.1",)),
        ("ipv6:%5B2001:db8::1%5D:5000", ("2001:db8::1",)),
        ("ipv6:[fe80::1%25eth0]:5000", ("fe80::1%eth0",)),
        ("unix:/tmp/x", None),
        ("ipv4:nonsense", None),
        ("", None),
    ],
)
def test_peer_is_known_by_its_address(peer: str, address: tuple[str] | None) -> None:
    assert gate._address(peer) == address
