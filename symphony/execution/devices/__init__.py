"""Offer the devices that run batches: `cpu`, `emulated` and `cuda:N`, behind one interface (base.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from symphony.config import DeviceSpec
from symphony.execution.devices.base import (
    Device,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    Fault,
    Flight,
    LoadedModel,
    Tensors,
    Timing,
)
from symphony.execution.devices.cpu import CpuDevice
from symphony.execution.devices.cuda import CudaDevice
from symphony.execution.devices.emulated import EmulatedDevice

__all__ = [
    "Device",
    "DeviceError",
    "DeviceLostError",
    "DeviceMemoryError",
    "Fault",
    "Flight",
    "LoadedModel",
    "Tensors",
    "Timing",
    "make_devices",
]


def make_devices(specs: Sequence[DeviceSpec], cpu_thread_count: int = 0, is_swapping: bool = False) -> list[Device]:
    """Return the devices of a node in GPU-id order.

    Each cpu worker gets `cpu_thread_count` threads; 0 shares out all cores but one, which the asyncio thread needs.
    `is_swapping`: the GPUs' memory does not hold all models.
    """
    cpu_count = sum(spec.kind == "cpu" for spec in specs)
    cores = len(os.sched_getaffinity(0))
    threads = cpu_thread_count or max(1, (cores - 1) // max(1, cpu_count))
    devices: list[Device] = []
    for spec in specs:
        if spec.kind == "cpu":
            devices.append(CpuDevice(spec.index, threads))
        elif spec.kind == "cuda":
            devices.append(CudaDevice(spec.index, is_swapping))
        else:
            devices.append(EmulatedDevice(spec.index))
    return devices
