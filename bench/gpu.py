"""Measure execution on one GPU: profiles, gaps between batches, goodput against the staggered bound.

    python bench/gpu.py [--model resnet50 ...] [--seconds 3] [--output FILE] [--smoke]

For each model (random weights, fp16): agreement with eager PyTorch in float32; l(b) with CUDA graphs and without;
then a node in this process is given requests by a thread of Poisson arrivals, counted from the instant at which they
were due. Saturated: the gap between batches and the GPU's busy share. At SLOs of 5 l(1) and 10 l(1): the largest rate
of which 99 % are answered in time, against what the measured l(b) allows on one GPU. HTTP is left out.
Needs an NVIDIA GPU, torchvision and transformers; `--smoke` runs a small network on the cpu device for a moment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop

from symphony.config import ModelConfig, NodeConfig, TensorSpec
from symphony.config.devices import parse_devices
from symphony.config.model import ExecutionSpec
from symphony.driver.requests import PendingRequest
from symphony.execution.devices import make_devices
from symphony.execution.repository import read_model_config
from symphony.execution.samples import sample_inputs
from symphony.execution.staging import StagedInputs
from symphony.profiles import LatencyProfile, staggered_bound
from symphony.server.loading import make_profile
from symphony.server.node import Node
from symphony.server.serve import SWITCH_INTERVAL_S

GOOD_SHARE_MIN = 0.99
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3)
TICK_S = 0.0002
WARM_UP_S = 0.7
OFFERED_MAX = 25_000.0
"""Requests per second that one thread of arrivals in this process is asked for at most."""

CODE = """
import time

import torch


class Images:
    def load(self, folder, device, parameters):
        import torchvision

        torch.manual_seed(0)
        self.network = getattr(torchvision.models, parameters["architecture"])(weights=None).to(device)

    def predict(self, batch):
        return {"scores": self.network(batch["image"])}


class Sentences:
    def load(self, folder, device, parameters):
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        self.network = BertModel(shape, add_pooling_layer=False).to(device)

    def predict(self, batch):
        ids = batch["ids"]
        mask = torch.ones_like(ids)
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        return {"embedding": torch.nn.functional.normalize(hidden.mean(1), dim=1)}


class Small:
    def load(self, folder, device, parameters):
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16)).to(device)

    def predict(self, batch):
        time.sleep(0.004)
        return {"scores": self.network(batch["image"])}
"""


def model_toml(name: str, entry: str, tensors: str, execution: str, size_max: int, parameters: str = "") -> str:
    """Return the model.toml of a benchmark model."""
    return (
        f'name = "{name}"\nslo_ms = SLO\nmax_batch_size = {size_max}\nformat = "python"\nentry = "model.py:{entry}"\n'
        f"{tensors}\n[execution]\n{execution}\n[parameters]\n{parameters}\n"
    )


def tensor(kind: str, name: str, datatype: str, shape: Sequence[int]) -> str:
    """Return one [[inputs]] or [[outputs]] table."""
    return f'[[{kind}]]\nname = "{name}"\ndatatype = "{datatype}"\nshape = {list(shape)}\n'


IMAGE = tensor("inputs", "image", "FP16", (3, 224, 224)) + tensor("outputs", "scores", "FP16", (1000,))
MODELS = {
    "resnet50": model_toml(
        "resnet50", "Images", IMAGE, 'precision = "fp16"\nchannels_last = true', 64, 'architecture = "resnet50"'
    ),
    "vit_b_16": model_toml("vit_b_16", "Images", IMAGE, 'precision = "fp16"', 64, 'architecture = "vit_b_16"'),
    "minilm": model_toml(
        "minilm",
        "Sentences",
        tensor("inputs", "ids", "INT64", (128,)) + tensor("outputs", "embedding", "FP32", (384,)),
        'precision = "fp16"',
        128,
    ),
}
SMALL = model_toml(
    "small",
    "Small",
    tensor("inputs", "image", "FP32", (3, 8, 8)) + tensor("outputs", "scores", "FP32", (16,)),
    "cuda_graphs = true",
    8,
)


@dataclass
class Load:
    """What came of one run of Poisson arrivals."""

    rate: float
    good: int = 0
    late: int = 0
    refused: int = 0
    batches: int = 0

    @property
    def good_share(self) -> float:
        return self.good / max(1, self.good + self.late + self.refused)


class Gaps:
    """Collect, from each flight, the gap before its batch and the time it held the device."""

    def __init__(self) -> None:
        self.gap_ns: list[int] = []
        self.launch_ns: list[int] = []
        self.staged_count = 0
        self.busy_ns = 0
        self.is_counting = False

    def watch(self, loaded: Any) -> None:
        """Note what each flight of the model measured, once it was waited for."""
        launch = loaded.launch

        def watched(inputs: Any) -> Any:
            began_ns = time.monotonic_ns()
            flight = launch(inputs)
            if self.is_counting:
                self.launch_ns.append(time.monotonic_ns() - began_ns)
                self.staged_count += sum(isinstance(one, StagedInputs) for one in inputs)
            wait = flight.wait

            def waited() -> Any:
                outputs = wait()
                if self.is_counting:
                    self.gap_ns.append(getattr(flight, "gap_ns", 0))
                    self.busy_ns += flight.timing.duration_ns
                return outputs

            flight.wait = waited
            return flight

        loaded.launch = watched


async def offer(node: Node, inputs: list[dict[str, Any]], rate: float, slo_ns: int, seconds: float, gaps: Gaps) -> Load:
    """Let requests arrive at `rate` for `seconds` after a warm-up, and count how they ended."""
    entry = next(iter(node.models()))
    result = Load(rate)
    loop = asyncio.get_running_loop()
    rng = np.random.default_rng(round(rate))
    count = max(1, round(rate * (seconds + WARM_UP_S)))
    due_ns = (np.cumsum(rng.exponential(1e9 / rate, count))).astype(np.int64)
    begin_ns = time.monotonic_ns() + 10_000_000
    counted_from_ns = begin_ns + round(WARM_UP_S * 1e9)
    left = count
    is_over = asyncio.Event()

    def ended(request: PendingRequest) -> None:
        nonlocal left
        left -= 1
        if request.arrived_ns >= counted_from_ns:
            if request.error is not None:
                result.refused += 1
            elif time.monotonic_ns() <= request.deadline_ns:
                result.good += 1
            else:
                result.late += 1
        if left == 0:
            is_over.set()

    def arrive(first: int, last: int) -> None:
        for number in range(first, last):
            arrived_ns = begin_ns + int(due_ns[number])
            request = PendingRequest(
                entry.index, inputs[number % len(inputs)], arrived_ns, arrived_ns + slo_ns, 4, ended
            )
            try:
                node.submit(request)
            except Exception as error:
                request.error = error  # type: ignore[assignment]
                ended(request)

    def generate() -> None:
        at = 0
        while at < count:
            now_ns = time.monotonic_ns() - begin_ns
            upto = int(np.searchsorted(due_ns, now_ns, side="right"))
            if upto > at:
                loop.call_soon_threadsafe(arrive, at, upto)
                at = upto
            time.sleep(TICK_S)

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    await asyncio.sleep(WARM_UP_S)
    gaps.gap_ns.clear()
    gaps.launch_ns.clear()
    gaps.staged_count = 0
    gaps.busy_ns = 0
    gaps.is_counting = True
    await asyncio.sleep(seconds)
    gaps.is_counting = False
    await asyncio.wait_for(is_over.wait(), 60)
    thread.join()
    return result


def write_toml(folder: Path, text: str, slo_ms: float) -> ModelConfig:
    """Write the model's model.toml with this SLO, and return what it says."""
    (folder / "model.toml").write_text(text.replace("SLO", f"{max(1.0, slo_ms):.3f}", 1))
    return read_model_config(folder, folder)


async def started(folder: Path, device: str) -> tuple[Node, Gaps]:
    """Return a node that serves the one model, and its gaps."""
    node_config = NodeConfig(
        repository=folder.parent,
        devices=parse_devices(device, "--device"),
        control_us=200.0,
        lead_us=800.0,
        window_us=300.0,
        reply_margin_ms=0.5,
    )
    node = Node(node_config, lambda error: print(f"fatal: {error}", file=sys.stderr))
    await node.start()
    entry = next(iter(node.models()))
    if entry.state != "READY":
        raise SystemExit(f"{folder.name}: {entry.reason}")
    gaps = Gaps()
    for worker in node._workers:
        for loaded in worker.models.values():
            gaps.watch(loaded)
    return node, gaps


async def stopped(node: Node) -> None:
    """Stop the node."""
    await node.drain(5)
    await node.stop()


async def serve_and_measure(
    folder: Path, text: str, device: str, profile: LatencyProfile, seconds: float
) -> dict[str, Any]:
    """Return gaps and busy share under saturation, and the goodput at both SLOs."""
    config = read_model_config(folder, folder)
    inputs = sample_inputs(config, np.random.default_rng(1), min(64, 4 * config.batch_size_max))
    table = profile.table_ns(config.batch_size_max)
    peak = max((size + 1) * 1e9 / value for size, value in enumerate(table))
    found: dict[str, Any] = {"peak_rate": peak}
    write_toml(folder, text, 10 * table[-1] / 1e6)
    node, gaps = await started(folder, device)
    saturated = await offer(node, inputs, min(1.2 * peak, OFFERED_MAX), 10 * table[-1], seconds, gaps)
    await stopped(node)
    ordered = sorted(gaps.gap_ns) or [0]
    launches = sorted(gaps.launch_ns) or [0]
    found["saturated"] = {
        "offered": saturated.rate,
        "good_rate": saturated.good / seconds,
        "batches": len(gaps.gap_ns),
        "gap_us_median": ordered[len(ordered) // 2] / 1e3,
        "gap_us_p99": ordered[len(ordered) * 99 // 100] / 1e3,
        "launch_us_median": launches[len(launches) // 2] / 1e3,
        "launch_us_p99": launches[len(launches) * 99 // 100] / 1e3,
        "staged_count": gaps.staged_count,
        "busy_share": gaps.busy_ns / (seconds * 1e9),
    }
    print(f"  saturated: {found['saturated']}", flush=True)
    for factor in (5, 10):
        slo_ns = factor * table[0]
        _, bound = staggered_bound(table, slo_ns, 1)
        probes = []
        write_toml(folder, text, slo_ns / 1e6)
        node, gaps = await started(folder, device)
        for share in SHARES:
            load = await offer(node, inputs, share * bound, slo_ns, seconds, gaps)
            probes.append((share, round(load.good_share, 4), load.late, load.refused))
            if load.good_share >= GOOD_SHARE_MIN:
                break
        found[f"slo_{factor}_l1"] = {
            "slo_ms": slo_ns / 1e6,
            "bound": bound,
            "share_of_bound": share if load.good_share >= GOOD_SHARE_MIN else 0.0,
            "probes": probes,
        }
        print(f"  SLO {factor} l(1): {found[f'slo_{factor}_l1']}", flush=True)
        await stopped(node)
    return found


def profile_of(folder: Path, config: ModelConfig, device: str, budget_s: float) -> LatencyProfile:
    """Return the measured profile; with CUDA graphs it is saved beside the model."""
    (made,) = make_devices(parse_devices(device, "--device"))
    made.enter_thread()
    loaded = made.load(config, folder)
    loaded.prepare(None)
    return make_profile(loaded, config, folder, made, budget_s, lambda text: None)


def disagreement(folder: Path, config: ModelConfig, device: str) -> float:
    """Return |ours - reference| / |reference| of a batch of 7, the reference eager in float32 without conversion."""
    inputs = sample_inputs(config, np.random.default_rng(2), 7)
    reference = replace(
        config,
        inputs=tuple(_wide(spec) for spec in config.inputs),
        outputs=tuple(_wide(spec) for spec in config.outputs),
        execution=ExecutionSpec(cuda_graphs=False),
    )
    answers = []
    for one in (config, reference):
        (made,) = make_devices(parse_devices(device, "--device"))
        made.enter_thread()
        loaded = made.load(one, folder)
        loaded.prepare(None)
        typed = [
            {spec.name: tensors[spec.name].astype(np.float32) if spec.datatype == "FP32" else tensors[spec.name]}
            for tensors in inputs
            for spec in one.inputs
        ]
        answers.append(loaded.launch(typed).wait()[one.outputs[0].name].astype(np.float64))
    return float(np.linalg.norm(answers[0] - answers[1]) / np.linalg.norm(answers[1]))


def _wide(spec: TensorSpec) -> TensorSpec:
    return replace(spec, datatype="FP32") if spec.datatype == "FP16" else spec


def measure(name: str, text: str, device: str, seconds: float, budget_s: float) -> dict[str, Any]:
    """Return everything measured of one model."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(CODE)
        config = write_toml(folder, text, 1000.0)
        print(f"{name}", flush=True)
        row: dict[str, Any] = {"disagreement": disagreement(folder, config, device)}
        eager = replace(config, execution=replace(config.execution, cuda_graphs=False))
        profiles = {"eager": profile_of(folder, eager, device, budget_s)}
        profiles["graphs"] = profile_of(folder, config, device, budget_s)
        for kind, profile in profiles.items():
            alpha, beta = profile.fit()
            table = profile.table_ns(config.batch_size_max)
            row[kind] = {
                "alpha_ms": alpha / 1e6,
                "beta_ms": beta / 1e6,
                "l_ms": {size: table[size - 1] / 1e6 for size in (1, 2, 4, 8, 16, 32, 64, 128) if size <= len(table)},
                "p99_over_median": max(
                    p99 / median for median, p99 in zip(profile.median_ns, profile.p99_ns, strict=True)
                ),
                "buckets": profile.buckets,
                "input_ms": profile.input_ns[-1] / 1e6,
                "output_ms": profile.output_ns[-1] / 1e6,
                "memory_mb": profile.memory_bytes / 1e6,
                "samples": min(profile.sample_counts),
            }
            print(f"  {kind}: {row[kind]}", flush=True)
        print(f"  disagreement with eager float32: {row['disagreement']:.2e}", flush=True)
        row["served"] = uvloop.run(serve_and_measure(folder, text, device, profiles["graphs"], seconds))
    return row


def main() -> int:
    """Measure the models and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run, after a second of warm-up")
    parser.add_argument("--budget-s", type=float, default=5.0, help="for each profile")
    parser.add_argument("--switch-us", type=float, default=SWITCH_INTERVAL_S * 1e6, help="the GIL's switch interval")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--smoke", action="store_true", help="a small network on the cpu device, nothing written")
    options = parser.parse_args()
    sys.setswitchinterval(options.switch_us / 1e6)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if options.smoke:
        row = measure("small", SMALL, "cpu", 0.2, 0.2)
        print(f"smoke: saturated {row['served']['saturated']['good_rate']:.0f} requests/s")
        return 0 if row["served"]["saturated"]["good_rate"] > 0 else 1
    rows = {}
    for name in options.model or list(MODELS):
        rows[name] = measure(name, MODELS[name], "cuda:0", options.seconds, options.budget_s)
    result = {"device": torch.cuda.get_device_name(0), "torch": torch.__version__, "models": rows}
    options.output.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
