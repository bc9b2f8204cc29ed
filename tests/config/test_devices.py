"""A list of devices means what it says, or is refused with what would be understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import DEVICE_KINDS, DeviceSpec, parse_devices
from symphony.config.devices import CUDA_INDEX_MAX, DEVICE_COUNT_MAX
from symphony.errors import ConfigError


def fault(text: str) -> str:
    """Return the sentence with which the list is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_devices(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu", [("cpu", 0)]),
        ("2xcpu", [("cpu", 0), ("cpu", 1)]),
        ("cpu,cpu", [("cpu", 0), ("cpu", 1)]),
        ("cuda", [("cuda", 0)]),
        ("cuda:3", [("cuda", 3)]),
        ("cuda:1, cuda:0", [("cuda", 1), ("cuda", 0)]),
        (" 1xcpu , 2xemulated,cuda:0", [("cpu", 0), ("emulated", 0), ("emulated", 1), ("cuda", 0)]),
        ("emulated,cpu,emulated", [("emulated", 0), ("cpu", 0), ("emulated", 1)]),
    ],
)
def test_list_is_read_in_order(text: str, devices: list[tuple[str, int]]) -> None:
    """The order gives the GPU ids; those of a kind are numbered."""
    assert parse_devices(text) == tuple(DeviceSpec(*device) for device in devices)


@pytest.mark.parametrize("part", ["", "gpu", "CPU", "cpu:1", "2xcuda", "cuda:", "cuda:-1", "x4cpu", "4 x cpu", "٣xcpu"])
def test_unknown_device_is_refused_with_examples(part: str) -> None:
    """Alone and in a list."""
    for text in (part, f"cpu,{part}"):
        assert fault(text).startswith(f"--devices: {part!r} is no device; write for example")


def test_gpu_named_twice_is_refused() -> None:
    """In whatever words."""
    assert "'cuda:0' is named twice" in fault("cuda,cpu,cuda:0")


def test_none_of_a_kind_is_refused() -> None:
    """Zero times a device is a slip."""
    assert fault("cpu,0xemulated") == "--devices: '0xemulated' is no device at all; write at least 1x, or leave it out"


def test_limits() -> None:
    """At them yes, beyond them no."""
    assert len(parse_devices(f"{DEVICE_COUNT_MAX}xemulated")) == DEVICE_COUNT_MAX
    assert f"above {DEVICE_COUNT_MAX}; name fewer" in fault(f"{DEVICE_COUNT_MAX}xemulated,cpu")
    assert parse_devices(f"cuda:{CUDA_INDEX_MAX}")[0].index == CUDA_INDEX_MAX
    assert f"above cuda:{CUDA_INDEX_MAX}" in fault(f"cuda:{CUDA_INDEX_MAX + 1}")


def test_long_text_is_cut_in_the_message() -> None:
    """A message stays readable."""
    assert len(fault("x" * 10_000)) < 300


def test_place_is_named() -> None:
    """A flag or a key of a file."""
    with pytest.raises(ConfigError, match=r"^here: 'x' is no device"):
        parse_devices("x", "here")


@given(st.text(alphabet="cpudaemlt:x,0123456789 ") | st.text())
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    """What is read is within the limits and has no device twice."""
    try:
        devices = parse_devices(text)
    except ConfigError as error:
        assert str(error).startswith("--devices: ")
    else:
        assert 1 <= len(devices) == len(set(devices)) <= DEVICE_COUNT_MAX
        assert {device.kind for device in devices} <= set(DEVICE_KINDS)
