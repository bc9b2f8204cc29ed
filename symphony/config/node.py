"""Describe one node as symphony.toml and the flags of `symphony serve` do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from symphony.config.devices import DeviceSpec


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Settings of one node; units are in the names, limits in node_document.py.

    `grpc_port`: where gRPC is served, too, without TLS; None: nowhere. `cpu_thread_count` 0 shares out all cores but
    one.
    `control_us`: from a decision to the earliest start of its batch. `lead_us`: how long before a GPU is predicted free
    its next batch is decided. `window_us`: least width of a schedulable window (timers are late). `poll_s`: how often
    the repository is looked at for changes; 0: never.
    `reply_margin_ms`: least time kept free between a batch's end and its deadlines. `timeout_delay_ms` and
    `timeout_batch_size` (0: the model's largest) serve the policy "timeout". `device_memory_mb`: what models may take
    of each GPU's memory; where they need more, those asked for are there and the others on the host. 0: all are there.
    `keys`: the file with the API keys that callers need, None: none is needed. `tls_cert`, `tls_key`: PEM files of the
    node's certificate chain and its private key; `tls_client_ca`: whose certificates clients must show. Management
    routes and metrics are on `management_port` of `management_host` alone, if there is one. `connection_count_max`: at
    one time; `header_timeout_s`, `body_timeout_s`: from the first byte of a request to the last of its head, and of its
    body; `keepalive_timeout_s`: how long a connection may be silent between requests.
    `record`: the file into which arrivals are written, None: none; `record_mb_max`: its largest size in millions of
    bytes.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    repository: Path = Path("models")
    devices: tuple[DeviceSpec, ...] = (DeviceSpec("cpu", 0),)
    policy: str = "deferred"
    cpu_thread_count: int = 0
    request_count_max: int = 65_536
    body_bytes_max: int = 64 << 20
    timeout_ms_max: float = 600_000.0
    drain_timeout_s: float = 30.0
    profile_budget_s: float = 20.0
    poll_s: float = 0.0
    control_us: float = 300.0
    lead_us: float = 1_000.0
    window_us: float = 4_000.0
    spin_us: float = 0.0
    reply_margin_ms: float = 2.0
    timeout_delay_ms: float = 5.0
    timeout_batch_size: int = 0
    device_memory_mb: float = 0.0
    keys: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    management_host: str = "127.0.0.1"
    management_port: int | None = None
    connection_count_max: int = 10_000
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    record: Path | None = None
    record_mb_max: int = 1_000
