"""Read a node's list of devices: `2xcpu,4xemulated,cuda:0`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from symphony.config.document import shown
from symphony.errors import ConfigError

DEVICE_KINDS = ("cpu", "cuda", "emulated")
DEVICE_COUNT_MAX = 1024
CUDA_INDEX_MAX = 255
_REPEATED = re.compile(r"(?:([0-9]{1,4})x)?(cpu|emulated)")
_CUDA = re.compile(r"cuda(?::([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: its kind, and its CUDA index or its number among those of its kind."""

    kind: str
    index: int


def parse_devices(text: str, where: str = "--devices") -> tuple[DeviceSpec, ...]:
    """Return the devices in `text`, in order; raise ConfigError naming what is not understood and what would be."""
    found: list[DeviceSpec] = []
    counts = {"cpu": 0, "emulated": 0}
    for part in (part.strip() for part in text.split(",")):
        if match := _CUDA.fullmatch(part):
            spec = DeviceSpec("cuda", int(match[1] or 0))
            if spec.index > CUDA_INDEX_MAX:
                raise ConfigError(
                    f"{where}: {part!r} is above cuda:{CUDA_INDEX_MAX}, the largest; give a smaller index"
                )
            if spec in found:
                raise ConfigError(f"{where}: {part!r} is named twice; one worker owns a GPU, so name it once")
            found.append(spec)
        elif match := _REPEATED.fullmatch(part):
            kind, count = match[2], int(match[1] or 1)
            if count < 1:
                raise ConfigError(f"{where}: {part!r} is no device at all; write at least 1x, or leave it out")
            if len(found) + count > DEVICE_COUNT_MAX:
                raise ConfigError(
                    f"{where}: {part!r} makes it {len(found) + count} devices, above {DEVICE_COUNT_MAX}; name fewer"
                )
            found += [DeviceSpec(kind, counts[kind] + i) for i in range(count)]
            counts[kind] += count
        else:
            raise ConfigError(
                f'{where}: {shown(part)} is no device; write for example "cpu", "2xcpu", "4xemulated", "cuda:0" or '
                '"cuda:0,cuda:1"'
            )
    return tuple(found)
