"""A node that does what a test tells it: the dashboard's source without a node."""

from __future__ import annotations

from dataclasses import dataclass, field

from symphony.config import ModelConfig, parse_model_config
from symphony.dashboard import BatchRing, Fate, Hub, Journal
from symphony.metrics import BuildInfo, GpuStats, ModelStats, NodeStats

MS = 1_000_000
S = 1_000 * MS
ABOUT = {"version": "0.1.0", "policy": "deferred", "python": "3.11", "torch": "2.13"}
TEXT = """
name = "{name}"
version = "1"
slo_ms = 50
max_batch_size = 16
format = "emulated"
[[inputs]]
name = "x"
datatype = "FP32"
shape = [8]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [2]
[emulated]
alpha_ms = 1
beta_ms = 4
"""


@dataclass
class FakeModel:
    config: ModelConfig
    state: str = "READY"
    reason: str = ""
    stats: ModelStats = field(default_factory=lambda: ModelStats(16))


class FakeSource:
    def __init__(self, names: tuple[str, ...] = ("resnet",), gpu_count: int = 2) -> None:
        self.list = [FakeModel(parse_model_config(TEXT.format(name=name), "model.toml")) for name in names]
        self.node = NodeStats(
            BuildInfo("0.1.0"), [GpuStats(f"emulated:{gpu}") for gpu in range(gpu_count)], gpus_needed=0.5
        )
        self.why = ""

    def models(self) -> list[FakeModel]:
        return self.list

    def node_stats(self) -> NodeStats:
        return self.node

    def health(self) -> str:
        return self.why

    def growth(self, model: tuple[str, str], gpu: int, size: int) -> float:
        return 1.5


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000 * S

    def __call__(self) -> int:
        return self.now_ns


class Shown:
    """A hub over a fake source, with a clock that stands still until told otherwise."""

    def __init__(self, *names: str, gpu_count: int = 2) -> None:
        self.clock = Clock()
        self.source = FakeSource(names or ("resnet",), gpu_count)
        self.ring = BatchRing()
        self.journal = Journal(self.clock)
        self.hub = Hub(self.source, ABOUT, self.ring, self.journal, self.clock)

    def pass_ms(self, ms: float) -> None:
        """Let time pass, then let the hub look."""
        self.clock.now_ns += round(ms * MS)
        self.hub.tick()

    def batch(
        self, gpu: int = 0, model: str = "resnet", size: int = 4, ago_ms: float = 20, fate: Fate = Fate.GOOD
    ) -> None:
        """Let a batch end now that began `ago_ms` ago, predicted to take 10 ms, 30 ms before its deadline."""
        now_ns = self.clock.now_ns
        started_ns = now_ns - round(ago_ms * MS)
        self.ring.put(gpu, (model, "1"), size, started_ns + 30 * MS, 2 * MS, 10 * MS, started_ns, now_ns, fate)
