"""What `--cluster` may say, and what is said about what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.cluster import Timing
from symphony.coordination import open_coordinator
from symphony.coordination.address import (
    ENDPOINT_COUNT_MAX,
    URL_CHARS_MAX,
    EtcdAddress,
    KubernetesAddress,
    MemoryAddress,
    parse_address,
)
from symphony.errors import ConfigError


def test_memory_is_this_process_alone() -> None:
    assert parse_address("memory:") == MemoryAddress(Timing())


def test_etcd_is_named_by_its_members() -> None:
    assert parse_address("etcd://a:1,b,[::1]:3") == EtcdAddress(
        ("http://a:1", "http://b:2379", "http://[::1]:3"), "symphony", Timing()
    )
    address = parse_address("etcds://a:1/blue-2?ca=/ca.pem&cert=/c.pem&key=/k.pem&ttl_s=2.5")
    assert address == EtcdAddress(
        ("https://a:1",),
        "blue-2",
        Timing.of_ttl(2_500_000_000),
        ca_file=Path("/ca.pem"),
        certificate_file=Path("/c.pem"),
        key_file=Path("/k.pem"),
    )
    assert isinstance(address, EtcdAddress)
    assert address.is_tls
    assert address.where == "etcd at a:1"


def test_password_comes_from_the_address_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("fr@m file\r\n")
    for url in (
        "etcd://us%40er:s%2Fec%3Aret@h",
        f"etcd://us%40er@h?password_file={tmp_path / 'p'}",
        "etcd://us%40er@h?password_env=SECRET",
    ):
        address = parse_address(url, {"SECRET": "from environment"})
        assert isinstance(address, EtcdAddress)
        assert address.user == "us@er"
        assert address.password in ("s/ec:ret", "fr@m file", "from environment")
        assert address.password not in repr(address)
        assert address.password not in address.where


def test_kubernetes_is_the_pods_own_or_a_kubeconfigs() -> None:
    assert parse_address("kubernetes:") == KubernetesAddress("", "symphony", Timing())
    assert parse_address("kubernetes://ml/blue?kubeconfig=/k&context=c") == KubernetesAddress(
        "ml", "blue", Timing(), Path("/k"), "c"
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "does not begin with one of memory, etcd"),
        ("host:2379", "does not begin with one of"),
        ("http://host:2379", "write etcd://HOST:2379"),
        ("etcd://", "is no HOST:PORT"),
        ("etcd:", "is no HOST:PORT"),
        ("etcd://a,,b", "'' is no HOST:PORT"),
        ("etcd://a:0", "'a:0' is no HOST:PORT"),
        ("etcd://a:65536", "is no HOST:PORT"),
        ("etcd://a b", "is no HOST:PORT"),
        ("etcd://[::1", "is no address"),
        ("etcd://a,a", "2 endpoints; at most 16 different ones"),
        ("etcd://" + ",".join(f"h{n}" for n in range(ENDPOINT_COUNT_MAX + 1)), "17 endpoints"),
        ("etcd://a/Upper", "prefix 'Upper' must be"),
        ("etcd://a/x/y", "prefix 'x/y' must be"),
        ("etcd://a/" + "x" * 33, "must be 1 to 32"),
        ("etcd://a#b", "write it as %23"),
        ("etcd://a?ca=x", "ca= is for TLS; write etcds://"),
        ("etcds://a?cert=x", "cert and key go together"),
        ("etcds://a?cret=x", "did you mean cert?"),
        ("etcd://a?zzz=x", "known are password_env, password_file, ttl_s"),
        ("etcd://a?ttl_s", "KEY=VALUE"),
        ("etcd://a?ttl_s=", "must have one value"),
        ("etcd://a?ttl_s=5&ttl_s=6", "give it once"),
        ("etcd://a?ttl_s=soon", "could not convert"),
        ("etcd://a?ttl_s=nan", "NaN"),
        ("etcd://a?ttl_s=inf", "infinity"),
        ("etcd://a?ttl_s=0.999", "it must be 1 to 300 s"),
        ("etcd://a?ttl_s=301", "it must be 1 to 300 s"),
        ("etcd://user@a", "a user without a password"),
        ("etcd://:pass@a", "a password without a user"),
        ("etcd://a?password_env=X", "a password without a user"),
        ("etcd://user:pass@a?password_env=X", "given more than once"),
        ("etcd://user@a?password_env=X", "the environment variable X is not set"),
        ("etcd://user@a?password_file=/nonexistent", "cannot be read: No such file"),
        ("memory://x", "memory has no host"),
        ("kubernetes://Not_A_Namespace", "namespace must be"),
        ("kubernetes:?context=c", "add kubeconfig=FILE"),
        ("etcd://" + "a" * URL_CHARS_MAX, f"the limit is {URL_CHARS_MAX}"),
    ],
)
def test_address_that_cannot_be_is_refused_with_the_reason(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url, {})
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 4097])
def test_password_file_that_holds_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ConfigError, match="the password's file"):
        parse_address(f"etcd://user@a?password_file={tmp_path / 'p'}", {})


@pytest.mark.parametrize(
    "url",
    [
        "etcd://user:hunter2@a?bad=1",
        "etcd://user:hunter2@a,,b",
        "etcd://user:hunter2@a/BAD",
        "http://user:hunter2@a",
        "etcd://user:hunter2@a?password_env=X",
        "etcd://user:hunter2@[::1",
        "etcd://user:hunter2@x@a:b",
        "etcd://user:hun/ter2@a",
        "etcd://user:hunter2?@a",
        "etcd://user:hunter2",
        "etcd://user:hunter2/x",
        "etcd://user:hunter2,b:1",
        "etcd://user:hunter2\u2100@a",
        "etcd:user:hunter2@a",
    ],
)
def test_password_is_in_no_message(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url, {})
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(
    st.text(max_size=100) | st.from_regex(r"(etcds?|memory|kubernetes):(//)?[a-z@:,./?=&%#\[\]0-9_]*", fullmatch=True)
)
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        parse_address(text, {})
    except ConfigError:
        return


async def test_memory_opens_without_anything() -> None:
    node = await open_coordinator("memory:?ttl_s=1")
    try:
        assert await node.put("m/1", {}) == "1"
    finally:
        await node.close()


async def test_kubernetes_outside_of_a_pod_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("kubernetes_asyncio", reason="kubernetes_asyncio is not installed")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"in no pod .* name a kubeconfig"):
        await open_coordinator("kubernetes:")
    (tmp_path / "broken").write_text("{")
    for file in ("none", "broken"):
        with pytest.raises(ConfigError, match=f"kubeconfig=.*{file} cannot be used"):
            await open_coordinator(f"kubernetes:?kubeconfig={tmp_path / file}")
