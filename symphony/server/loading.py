"""Bring a model onto the node's devices: load, warm up, profile. Everything here blocks and runs in a loader thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.execution.devices import Device, LoadedModel, Timing
from symphony.execution.devices.emulated import latency_table_ns
from symphony.execution.profiler import ProfileStore, fingerprint, measure_profile
from symphony.execution.samples import sample_inputs
from symphony.profiles import LatencyProfile

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]


def load_model(
    config: ModelConfig,
    folder: Path,
    devices: Sequence[Device],
    profile_budget_s: float,
    progress: Progress,
    like: Mapping[str, LoadedModel] | None = None,
) -> tuple[dict[str, LoadedModel], dict[str, LatencyProfile]]:
    """Load `config` onto each device of its kinds; return (device name -> loaded, profile key -> profile).

    `like`: the same model, loaded on each device for tensors of other sizes, whose weights are shared. Raise what the
    format or the device raises (the message says which file and what to do).
    """
    loaded: dict[str, LoadedModel] = {}
    profiles: dict[str, LatencyProfile] = {}
    for device in devices:
        device.enter_thread()
        progress(f"loading on {device.name}")
        model = device.load(config, folder) if like is None else like[device.name].variant(config)
        key = profile_key(device)
        saved = profiles.get(key) or saved_profile(config, folder, device)
        progress(f"warming up on {device.name}")
        model.prepare(None if saved is None else saved.buckets)
        if saved is not None and saved.buckets != model.buckets:
            saved = None  # measured with buckets that cannot be had now
        loaded[device.name] = model
        if key not in profiles:
            profiles[key] = saved or make_profile(model, config, folder, device, profile_budget_s, progress)
    return loaded, profiles


def profile_key(device: Device) -> str:
    """Return what devices must share to share a latency profile."""
    return f"{device.kind}/{device.model}"


def saved_profile(config: ModelConfig, folder: Path, device: Device) -> LatencyProfile | None:
    """Return the profile saved for this device, torch version and model, None if there is none.

    An emulated model's profile is its declaration.
    """
    if device.kind == "emulated":
        return LatencyProfile.from_table(latency_table_ns(config), model=config.name, version=config.version)
    saved = ProfileStore(folder, config.length).load(device.model, torch.__version__, fingerprint(config, folder))
    if saved is not None:
        _log.info('model "%s": using the profile of %s for %s', config.name, saved.measured_on, device.model)
    return saved


def make_profile(
    model: LoadedModel, config: ModelConfig, folder: Path, device: Device, budget_s: float, progress: Progress
) -> LatencyProfile:
    """Measure the model on the device, and save what was measured: not of an emulated one, which declares its own."""
    progress(f"profiling on {device.name}")
    samples = sample_inputs(config, np.random.default_rng(0), config.batch_size_max, model.sample)

    def run(size: int) -> Timing:
        flight = model.launch(samples[:size])
        flight.wait()
        return flight.timing

    profile = measure_profile(
        run,
        config,
        buckets=model.buckets,
        memory_bytes=model.memory_bytes,
        device=device.model,
        torch_version=torch.__version__,
        fingerprint=fingerprint(config, folder),
        clock_ns=time.perf_counter_ns,
        budget_s=budget_s,
    )
    if device.kind != "emulated":
        ProfileStore(folder, config.length).save(profile)
    return profile
