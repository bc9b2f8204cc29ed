"""Bring a model onto the node's devices: load, warm up, profile. Everything here blocks and runs in a loader thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.execution.devices import Device, LoadedModel
from symphony.execution.devices.emulated import latency_table_ns
from symphony.execution.profiler import ProfileStore, fingerprint, measure_profile
from symphony.execution.samples import sample_inputs
from symphony.profiles import LatencyProfile

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]


def load_model(
    config: ModelConfig, folder: Path, devices: Sequence[Device], profile_budget_s: float, progress: Progress
) -> tuple[dict[str, LoadedModel], dict[str, LatencyProfile]]:
    """Load `config` onto each device of its kinds; return (device name -> loaded, profile key -> profile).

    Raise what the format or the device raises (the message says which file and what to do).
    """
    loaded: dict[str, LoadedModel] = {}
    profiles: dict[str, LatencyProfile] = {}
    for device in devices:
        device.enter_thread()
        progress(f"loading on {device.name}")
        model = device.load(config, folder)
        if device.kind != "emulated":
            progress(f"warming up on {device.name}")
            warm_up(model, config)
        loaded[device.name] = model
        key = profile_key(device)
        if key not in profiles:
            profiles[key] = obtain_profile(model, config, folder, device, profile_budget_s, progress)
    return loaded, profiles


def profile_key(device: Device) -> str:
    """Return what devices must share to share a latency profile."""
    return f"{device.kind}/{device.model}"


def warm_up(model: LoadedModel, config: ModelConfig) -> None:
    """Run `warmup_count` batches of the smallest and of the largest size, so that no request pays for first calls."""
    rng = np.random.default_rng(0)
    for size in sorted({1, config.batch_size_max}):
        inputs = sample_inputs(config, rng, size)
        for _ in range(config.warmup_count):
            model.launch(inputs).wait()


def obtain_profile(
    model: LoadedModel, config: ModelConfig, folder: Path, device: Device, budget_s: float, progress: Progress
) -> LatencyProfile:
    """Return the saved profile if device, torch version and model match, else measure and save one.

    An emulated model's profile is its declaration.
    """
    if device.kind == "emulated":
        return LatencyProfile.from_table(latency_table_ns(config), model=config.name, version=config.version)
    store = ProfileStore(folder)
    mark = fingerprint(config, folder)
    saved = store.load(device.model, torch.__version__, mark)
    if saved is not None:
        progress(f"using the saved profile of {saved.measured_on}")
        return saved
    progress(f"profiling on {device.name}")
    rng = np.random.default_rng(0)
    samples = sample_inputs(config, rng, config.batch_size_max)
    profile = measure_profile(
        lambda size: model.launch(samples[:size]).wait() and None,
        config,
        device=device.model,
        torch_version=torch.__version__,
        fingerprint=mark,
        clock_ns=time.perf_counter_ns,
        budget_s=budget_s,
    )
    store.save(profile)
    return profile
