"""Real etcd members on loopback, to be killed, stopped and started again. The binary comes from `make .stamp/etcd`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOL = ROOT / ".tools" / "etcd"
START_S = 30.0


def find_etcd() -> Path | None:
    """Return etcd's binary, None if there is none."""
    fetched = TOOL / "usr" / "bin" / "etcd"
    found = shutil.which("etcd")
    return fetched if fetched.exists() else Path(found) if found else None


def why_no_etcd() -> str:
    """Say why there is no etcd."""
    reason = TOOL / "missing"
    return (
        reason.read_text().strip()
        if reason.exists()
        else "no etcd: run `make .stamp/etcd`, or install etcd 3.4 or newer"
    )


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class EtcdCluster:
    """`count` members with their data in `folder`; `extra` flags go to each."""

    def __init__(
        self, binary: Path, folder: Path, count: int, extra: tuple[str, ...] = (), tls_flags: tuple[str, ...] = ()
    ) -> None:
        self._binary = binary
        self._folder = folder
        self._extra = (*extra, *tls_flags)
        self._scheme = "https" if tls_flags else "http"
        ports = free_ports(2 * count)
        self.ports = ports[:count]
        self._peer_ports = ports[count:]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count

    @property
    def hosts(self) -> str:
        """Return host:port of all members, with commas."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self, *members: int) -> None:
        """Start members (all by default) that are not running."""
        peers = [f"m{member}=http://127.0.0.1:{port}" for member, port in enumerate(self._peer_ports)]
        for member in members or range(len(self.ports)):
            if self._processes[member] is not None:
                continue
            client = f"{self._scheme}://127.0.0.1:{self.ports[member]}"
            peer = f"http://127.0.0.1:{self._peer_ports[member]}"
            with (self._folder / f"m{member}.log").open("ab") as log:
                self._processes[member] = subprocess.Popen(
                    [
                        *(self._binary, "--name", f"m{member}", "--data-dir", self._folder / f"m{member}"),
                        *("--listen-client-urls", client, "--advertise-client-urls", client),
                        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                        *("--initial-cluster", ",".join(peers), "--logger", "zap"),
                        *("--heartbeat-interval", "50", "--election-timeout", "500"),
                        *self._extra,
                    ],
                    stdout=log,
                    stderr=log,
                )

    def kill(self, *members: int) -> None:
        """End members as a power failure would."""
        for member in members:
            process = self._processes[member]
            if process is not None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                self._processes[member] = None

    def close(self) -> None:
        """End all members."""
        self.kill(*range(len(self.ports)))

    def post(self, member: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask one member over plain HTTP."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[member]}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def wait_until_ready(self) -> None:
        """Wait until every running member answers a read that needs a majority."""
        ends_at = time.monotonic() + START_S
        for member, process in enumerate(self._processes):
            while process is not None:
                try:
                    self.post(member, "/v3/kv/range", {"key": "AA=="})
                    break
                except OSError:
                    assert process.poll() is None, f"etcd ended: see {self._folder}/m{member}.log"
                    assert time.monotonic() < ends_at, f"etcd does not answer: see {self._folder}/m{member}.log"
                    time.sleep(0.1)

    def leader(self) -> int:
        """Return which member leads etcd."""
        for member, process in enumerate(self._processes):
            if process is not None:
                status = self.post(member, "/v3/maintenance/status", {})
                if status["leader"] == status["header"]["member_id"]:
                    return member
        raise AssertionError("no member leads")

    def compact(self) -> None:
        """Have etcd forget all history."""
        revision = self.post(0, "/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        self.post(0, "/v3/kv/compaction", {"revision": revision, "physical": True})


def kill_process(pid: int, number: int) -> None:
    """Send a signal to one process."""
    os.kill(pid, number)
