"""Every key of symphony.toml has limits; flags go before the file and are checked alike."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import DeviceSpec, NodeConfig, parse_node_config
from symphony.config.node_document import NodeDocument
from symphony.errors import ConfigError

FILE = "symphony.toml"


def fault(text: str, **flags: object) -> str:
    """Return the one sentence with which the text is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_node_config(text, FILE, flags)
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"{FILE}: ")
    return line.removeprefix(f"{FILE}: ")


def test_empty_file_gives_the_defaults() -> None:
    """Those of NodeConfig itself."""
    assert parse_node_config("", FILE) == NodeConfig()


def test_file_and_value_know_the_same_keys() -> None:
    """Nothing can be configured that is not kept, nor kept that cannot be configured."""
    assert sorted(NodeDocument.model_fields) == sorted(field.name for field in fields(NodeConfig))


def test_values_arrive_in_their_types() -> None:
    """Whole numbers are fine where a duration is meant."""
    config = parse_node_config(
        'host = "::1"\nport = 0\nrepository = "a/b"\ndevices = "2xcpu,cuda:1"\npolicy = "eager"\nlead_us = 5\n', FILE
    )
    assert (config.host, config.port, config.repository, config.policy) == ("::1", 0, Path("a/b"), "eager")
    assert config.devices == (DeviceSpec("cpu", 0), DeviceSpec("cpu", 1), DeviceSpec("cuda", 1))
    assert type(config.lead_us) is float


def test_flag_goes_before_the_file_and_is_checked_alike() -> None:
    """With the file's words."""
    assert parse_node_config("port = 1", FILE, {"port": 2}).port == 2
    assert fault("port = 1", port=-1) == "key 'port' is -1: it must be at least 0; raise it"


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("port", 0, 65_535),
        ("cpu_thread_count", 0, 1024),
        ("request_count_max", 1, 1 << 24),
        ("body_bytes_max", 1024, 1 << 30),
        ("timeout_ms_max", 1.0, 3_600_000.0),
        ("drain_timeout_s", 0.0, 3_600.0),
        ("profile_budget_s", 0.1, 3_600.0),
        ("poll_s", 0.0, 86_400.0),
        ("control_us", 0.0, 1e6),
        ("lead_us", 0.0, 1e6),
        ("window_us", 0.0, 1e6),
        ("spin_us", 0.0, 1e4),
        ("reply_margin_ms", 0.0, 1e4),
        ("timeout_delay_ms", 0.0, 60_000.0),
        ("timeout_batch_size", 0, 4096),
        ("management_port", 0, 65_535),
        ("connection_count_max", 1, 1 << 20),
        ("header_timeout_s", 0.05, 3_600.0),
        ("body_timeout_s", 0.05, 3_600.0),
        ("keepalive_timeout_s", 0.05, 86_400.0),
    ],
)
def test_number_is_taken_up_to_its_limits(key: str, least: float, most: float) -> None:
    """At the limits yes, beyond them no."""
    step = 1 if isinstance(least, int) else 0.001
    assert getattr(parse_node_config(f"{key} = {least}", FILE), key) == least
    assert getattr(parse_node_config(f"{key} = {most}", FILE), key) == most
    assert f"key '{key}' is " in fault(f"{key} = {least - step}") and "at least" in fault(f"{key} = {least - step}")
    assert "at most" in fault(f"{key} = {most + step}")


def test_every_number_has_both_limits() -> None:
    """A new key comes with its bounds."""
    for name, info in NodeDocument.model_fields.items():
        if info.annotation in (int, float):
            bounds = {type(one).__name__ for one in info.metadata}
            assert {"Ge", "Le"} <= bounds, name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('hosts = "a"', "key 'hosts' is unknown; did you mean 'host'?"),
        ('host = ""', "key 'host' is '': it must have at least 1 character; fill it in"),
        ('policy = "lazy"', "it must be 'deferred', 'eager' or 'timeout'"),
        ('devices = "2xgpu"', "key 'devices' is '2xgpu': '2xgpu' is no device; write for example"),
        ("repository = 3", "it must be text; put it in quotes"),
        ("[port]", "it must be a whole number"),
    ],
)
def test_wrong_value_is_refused_with_key_and_remedy(text: str, said: str) -> None:
    """As in a model.toml."""
    assert said in fault(text)


@given(st.text())
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    """Never anything but ConfigError."""
    try:
        parse_node_config(text, FILE)
    except ConfigError as error:
        assert str(error).startswith(FILE)
