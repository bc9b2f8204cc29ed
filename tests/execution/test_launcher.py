"""The launcher against a driver library made for the test: commands in order, errors by name, nothing left behind."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from symphony.execution.devices.launcher import Commands, Driver, Events, LaunchError

FAKE = r"""
#include <cstdint>
#include <cstring>
#include <string>

static std::string calls;
static int event_count = 0, graph_count = 0, fail_at = 0;
static float clock_ms = 0;
struct Event { float at; unsigned flags; };

static int called(const std::string& name) {
    calls += name + ";";
    return fail_at > 0 && --fail_at == 0 ? 700 : 0;
}

extern "C" {
const char* fake_calls() { return calls.c_str(); }
void fake_reset(int fail) { calls.clear(); fail_at = fail; }
int fake_events() { return event_count; }
int fake_graphs() { return graph_count; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, void* stream) {
    memcpy((void*)to, from, size);
    return called("in@" + std::to_string((uint64_t)stream));
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void* stream) {
    memcpy((void*)to, (void*)from, size);
    return called("copy@" + std::to_string((uint64_t)stream));
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void* stream) {
    memcpy(to, (void*)from, size);
    return called("out@" + std::to_string((uint64_t)stream));
}
int cuEventCreate(void** event, unsigned flags) { ++event_count; *event = new Event{0, flags}; return 0; }
int cuEventDestroy_v2(void* event) { --event_count; delete (Event*)event; return 0; }
int cuEventRecord(void* event, void* stream) {
    ((Event*)event)->at = clock_ms += 1;
    return called("record@" + std::to_string((uint64_t)stream));
}
int cuEventSynchronize(void* event) { return called("sync" + std::to_string(((Event*)event)->flags)); }
int cuEventElapsedTime(float* ms, void* a, void* b) { *ms = ((Event*)b)->at - ((Event*)a)->at; return 0; }
int cuStreamWaitEvent(void* stream, void*, unsigned) { return called("wait@" + std::to_string((uint64_t)stream)); }
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
    ++graph_count;
    *made = (char*)graph + 1;
    return graph == nullptr ? 1 : 0;
}
int cuGraphExecDestroy(void*) { --graph_count; return 0; }
int cuGraphLaunch(void* graph, void* stream) {
    return called("replay" + std::to_string((uint64_t)graph) + "@" + std::to_string((uint64_t)stream));
}
#ifndef OLD
int cuGetErrorName(int error, const char** name) { *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return error == 700 ? 0 : 1; }
#endif
}
"""


def build(folder: Path, *flags: str) -> Path:
    """Return the library, compiled."""
    source, library = folder / "fake.cpp", folder / "libfake.so"
    source.write_text(FAKE)
    subprocess.run(["g++", "-shared", "-fPIC", "-O1", *flags, "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def fake(library: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(library))
    found.fake_calls.restype = ctypes.c_char_p
    found.fake_reset(0)
    return found


def calls(fake: ctypes.CDLL) -> list[str]:
    """Return what the library was asked to do since it was reset."""
    return fake.fake_calls().decode().split(";")[:-1]


def test_commands_are_done_in_order_with_what_they_name(library: Path, fake: ctypes.CDLL) -> None:
    driver = Driver(str(library))
    graph = driver.instantiate(41)
    events = Events(driver)
    first, second, third, fourth = (np.arange(4, dtype=np.int64) * factor for factor in (1, 0, 0, 0))
    commands = Commands(driver)
    commands.copy_in(second.ctypes.data, first.ctypes.data, 24, 5)
    commands.record(events.handle(Events.COPIED), 5)
    commands.wait(events.handle(Events.COPIED), 6)
    commands.copy(third.ctypes.data, second.ctypes.data, 32, 6)
    commands.replay(graph, 6)
    commands.copy_out(fourth.ctypes.data, third.ctypes.data, 32, 7)
    assert len(commands) == 6
    assert calls(fake) == [], "nothing happens before run"
    commands.run()
    assert calls(fake) == ["in@5", "record@5", "wait@6", "copy@6", "replay42@6", "out@7"]
    assert fourth.tolist() == [0, 1, 2, 0]


def test_times_are_between_the_events_they_are_named_for(library: Path, fake: ctypes.CDLL) -> None:
    driver = Driver(str(library))
    before, events = Events(driver), Events(driver)
    commands = Commands(driver)
    order = [
        (before, Events.COMPUTED),
        (events, Events.COPYING),
        (events, Events.COPIED),
        (before, Events.ENDED),
        (events, Events.BEGAN),
        (before, Events.RETURNING),
        (before, Events.COPYING),
        (events, Events.COMPUTED),
        (events, Events.RETURNING),
        (events, Events.ENDED),
    ]
    for whose, place in order:
        commands.record(whose.handle(place), 1)
    commands.run()
    fake.fake_reset(0)
    assert events.wait(before) == (1_000_000, 3_000_000, 1_000_000, 4_000_000)
    assert calls(fake) == ["sync1"], "the event that is waited for lets its waiter sleep"
    assert events.wait() == (1_000_000, 3_000_000, 1_000_000, 0)


def test_refused_command_is_named_and_those_after_it_are_not_done(library: Path, fake: ctypes.CDLL) -> None:
    driver = Driver(str(library))
    commands = Commands(driver)
    events = Events(driver)
    for _ in range(3):
        commands.record(events.handle(0), 1)
    fake.fake_reset(2)
    with pytest.raises(LaunchError, match=r"command 2 of 3 \(record\) failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        commands.run()
    assert len(calls(fake)) == 2
    fake.fake_reset(1)
    with pytest.raises(LaunchError, match="waiting for a batch failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        events.wait()


def test_events_and_graphs_are_given_back(library: Path, fake: ctypes.CDLL) -> None:
    driver = Driver(str(library))
    events, graph = Events(driver), driver.instantiate(1)
    assert (fake.fake_events(), fake.fake_graphs()) == (6, 1)
    del events, graph
    assert (fake.fake_events(), fake.fake_graphs()) == (0, 0)
    with pytest.raises(LaunchError, match="making a graph executable failed: error 1"):
        driver.instantiate(0)


def test_library_that_is_missing_or_too_old_is_said(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"libnone\.so\.1 cannot be used: .*No such file"):
        Driver("libnone.so.1")
    old = build(tmp_path, "-DOLD")
    with pytest.raises(LaunchError, match="cannot be used: it has no cuGetErrorName"):
        Driver(str(old))
