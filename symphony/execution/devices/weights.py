"""Take a model's weights off a device and bring them back: kept once in pinned host memory, they never change.

Bringing back is a copy from pinned memory on a stream of its own, beside batches of other models. The tensors
themselves stay, only what they hold comes and goes, so modules, and whoever holds their parameters, notice nothing.
That is also why a captured CUDA graph cannot be swapped: it knows addresses, not tensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch


class Weights:
    """The parameters and buffers of some modules that lie on one device.

    `byte_count` is what `evict` frees. Evict and restore from one thread at a time, with no batch of the model in
    flight.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], device: torch.device) -> None:
        self._device = device
        self._tensors = [tensor for tensor in _distinct(modules) if tensor.device == device and tensor.numel()]
        self._hosts: list[torch.Tensor] = []
        self._is_there = True
        self.byte_count = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)

    def evict(self) -> None:
        """Free the device's memory; the first time, copy the weights to the host."""
        if not self._is_there:
            return
        if not self._hosts:
            self._hosts = [self._on_host(tensor) for tensor in self._tensors]
        for tensor in self._tensors:
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=self._device)
        self._is_there = False

    def restore(self, stream: torch.cuda.Stream | None = None, user: torch.cuda.Stream | None = None) -> None:
        """Copy the weights back on `stream` and return when they are there, for batches on the stream `user`.

        Raise what the device raises when its memory does not hold them; nothing of it stays there then.
        """
        if self._is_there:
            return
        with torch.cuda.stream(stream):
            arrived = [host.to(self._device, non_blocking=True) for host in self._hosts]
        if stream is not None:
            stream.synchronize()
        for tensor, data in zip(self._tensors, arrived, strict=True):
            if user is not None:
                data.record_stream(user)
            tensor.data = data
        self._is_there = True

    def measure_ns(self, stream: torch.cuda.Stream | None = None, user: torch.cuda.Stream | None = None) -> int:
        """Return how long bringing the weights back takes, from one trial; they are there afterwards."""
        self.evict()
        began_ns = time.perf_counter_ns()
        self.restore(stream, user)
        return time.perf_counter_ns() - began_ns

    def _on_host(self, tensor: torch.Tensor) -> torch.Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._device.type == "cuda")
        # Channels-last and other layouts come back as they were.
        host = host.as_strided(tensor.shape, tensor.stride()) if _is_dense(tensor) else host
        host.copy_(tensor.data)
        return host


def _is_dense(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's elements fill their span without gaps or overlaps, in whatever order."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return span == tensor.numel()


def _distinct(modules: Sequence[torch.nn.Module]) -> Iterator[torch.Tensor]:
    """Yield each parameter and buffer once, also those that modules share."""
    seen: set[int] = set()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
