"""Read a symphony.toml into a `NodeConfig`, or say everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from symphony.config.devices import DeviceSpec, parse_devices
from symphony.config.document import Document, check_document, parse_toml
from symphony.config.model_document import Number
from symphony.config.node import NodeConfig
from symphony.errors import ConfigError

_DEFAULT = NodeConfig()
_OPTIONAL_PATHS = ("keys", "tls_cert", "tls_key", "tls_client_ca", "record")


class NodeDocument(Document):
    """A whole symphony.toml; every key may be left out."""

    host: str = Field(default=_DEFAULT.host, min_length=1, max_length=255)
    port: int = Field(default=_DEFAULT.port, ge=0, le=65_535)
    grpc_port: int | None = Field(default=_DEFAULT.grpc_port, ge=0, le=65_535)
    repository: str = Field(default=str(_DEFAULT.repository), min_length=1, max_length=4096)
    devices: str = "cpu"
    policy: Literal["deferred", "eager", "timeout"] = "deferred"
    cpu_thread_count: int = Field(default=_DEFAULT.cpu_thread_count, ge=0, le=1024)
    request_count_max: int = Field(default=_DEFAULT.request_count_max, ge=1, le=1 << 24)
    body_bytes_max: int = Field(default=_DEFAULT.body_bytes_max, ge=1024, le=1 << 30)
    timeout_ms_max: Number = Field(default=_DEFAULT.timeout_ms_max, ge=1.0, le=3_600_000.0)
    drain_timeout_s: Number = Field(default=_DEFAULT.drain_timeout_s, ge=0.0, le=3_600.0)
    profile_budget_s: Number = Field(default=_DEFAULT.profile_budget_s, ge=0.1, le=3_600.0)
    poll_s: Number = Field(default=_DEFAULT.poll_s, ge=0.0, le=86_400.0)
    control_us: Number = Field(default=_DEFAULT.control_us, ge=0.0, le=1e6)
    lead_us: Number = Field(default=_DEFAULT.lead_us, ge=0.0, le=1e6)
    window_us: Number = Field(default=_DEFAULT.window_us, ge=0.0, le=1e6)
    spin_us: Number = Field(default=_DEFAULT.spin_us, ge=0.0, le=1e4)
    reply_margin_ms: Number = Field(default=_DEFAULT.reply_margin_ms, ge=0.0, le=1e4)
    timeout_delay_ms: Number = Field(default=_DEFAULT.timeout_delay_ms, ge=0.0, le=60_000.0)
    timeout_batch_size: int = Field(default=_DEFAULT.timeout_batch_size, ge=0, le=4096)
    device_memory_mb: Number = Field(default=_DEFAULT.device_memory_mb, ge=0.0, le=1e9)
    keys: str = Field(default="", max_length=4096)
    tls_cert: str = Field(default="", max_length=4096)
    tls_key: str = Field(default="", max_length=4096)
    tls_client_ca: str = Field(default="", max_length=4096)
    management_host: str = Field(default=_DEFAULT.management_host, min_length=1, max_length=255)
    management_port: int | None = Field(default=None, ge=0, le=65_535)
    connection_count_max: int = Field(default=_DEFAULT.connection_count_max, ge=1, le=1 << 20)
    header_timeout_s: Number = Field(default=_DEFAULT.header_timeout_s, ge=0.05, le=3_600.0)
    body_timeout_s: Number = Field(default=_DEFAULT.body_timeout_s, ge=0.05, le=3_600.0)
    keepalive_timeout_s: Number = Field(default=_DEFAULT.keepalive_timeout_s, ge=0.05, le=86_400.0)
    record: str = Field(default="", max_length=4096)
    record_mb_max: int = Field(default=_DEFAULT.record_mb_max, ge=1, le=1_000)

    @classmethod
    def cross_faults(cls, raw: Mapping[str, Any]) -> list[str]:
        """Return what is missing for TLS."""
        faults = []
        if bool(raw.get("tls_cert")) != bool(raw.get("tls_key")):
            faults.append("keys 'tls_cert' and 'tls_key' need each other; give both or neither")
        if raw.get("tls_client_ca") and not raw.get("tls_cert"):
            faults.append(
                "key 'tls_client_ca' needs 'tls_cert' and 'tls_key': without TLS no client shows a certificate"
            )
        return faults

    @field_validator("devices")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            parse_devices(value, "devices")
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("devices: ")) from None
        return value


def parse_node_config(text: str, file: str, flags: Mapping[str, Any] | None = None) -> NodeConfig:
    """Return the node that `text`, the contents of `file`, describes, `flags` going before it.

    Raise ConfigError with every fault.
    """
    raw = parse_toml(text, file) | dict(flags or {})
    values = check_document(NodeDocument, raw, file).model_dump()
    devices: tuple[DeviceSpec, ...] = parse_devices(values.pop("devices"))
    paths = {name: Path(values[name]) if values[name] else None for name in _OPTIONAL_PATHS}
    paths["repository"] = Path(values["repository"])
    return NodeConfig(**(values | paths | {"devices": devices}))
