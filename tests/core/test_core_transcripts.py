"""Replay the small scenarios in transcripts/ and compare what the core answers with what is written below each command.

A transcript is a text file. A line that begins in the first column is a command or, with `#`, a comment; the indented
lines below it are what the core answered. `SYMPHONY_REWRITE=1 pytest tests/core/test_core_transcripts.py` writes the
answers anew, to be read as a diff.

The first command makes the scheduler; each other one begins with its time:

    scheduler policy=deferred lead=2ms
    0ms model 0 slo=25ms profile=5ms,6ms,7ms,8ms     add model 0 with batches of up to 4 and its profile for kind 0
    0ms model 1 slo=25ms size=4                      the same without a profile
    0ms profile 1 kind=1 latency=5ms,6ms,7ms,8ms
    0ms gpu 0 kind=0 models=0,1                      GPU 0 joins; models 0 and 1 are placed on it
    1.5ms arrive 7 model=0 deadline=25ms priority=4  request 7; `7..9` is three requests, a step each
    2ms cancel 7
    3ms started 1 gpu=0                              plan 1; `at=2.9ms` if it was measured earlier
    8ms finished 1 gpu=0
    0ms margin 0 margin=2ms | place 0 gpu=1 | evict 0 gpu=1 | remove 0 | left 0 | drained 0 | restored 0
    9ms wake                                         a step without an event
    20ms run                                         a step at each wake-up until 20ms

Answers are decisions, `wakeup` where it changed, and `error`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from symphony.core import Scheduler
from symphony.core.events import (
    BatchFinished,
    BatchStarted,
    Dispatch,
    Drop,
    Event,
    GpuDrained,
    GpuJoined,
    GpuLeft,
    GpuRestored,
    MarginChanged,
    ModelAdded,
    ModelEvicted,
    ModelPlaced,
    ModelRemoved,
    ProfileChanged,
    RequestArrived,
    RequestCancelled,
)
from tests.oracle import NEVER, OracleScheduler

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
IS_REWRITTEN = os.environ.get("SYMPHONY_REWRITE") == "1"
INDENT = "    "
UNITS = {"ms": 1_000_000, "us": 1000, "ns": 1}


def to_ns(text: str) -> int:
    """Return "1.5ms" as 1500000."""
    for unit, scale in UNITS.items():
        if text.endswith(unit):
            return round(float(text.removesuffix(unit)) * scale)
    raise ValueError(f"{text!r} is no time, write for example 1.5ms")


def to_text(time_ns: int) -> str:
    """Return 1500000 as "1.5ms", without losing a nanosecond."""
    if time_ns == NEVER:
        return "never"
    whole, rest = divmod(abs(time_ns), UNITS["ms"])
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if time_ns < 0 else ''}{whole}{fraction}ms"


class Replay:
    """Carry out the commands of one transcript and collect the answers."""

    def __init__(self, make: Callable[..., Scheduler | OracleScheduler]) -> None:
        self.make = make
        self.scheduler: Scheduler | OracleScheduler | None = None
        self.wakeup_ns = NEVER
        self.answers: list[str] = []

    def command(self, line: str) -> list[str]:
        """Return the answers to one command."""
        self.answers = []
        words = [word for word in line.split() if "=" not in word]
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if words[0] == "scheduler":
            self.scheduler = self.make(**self.options(values))
            self.wakeup_ns = NEVER
            return []
        now_ns, verb, *numbers = words
        if verb == "run":
            self.run(to_ns(now_ns))
        elif verb == "wake":
            self.step(to_ns(now_ns), None)
        else:
            for event in self.events(verb, numbers[0], values, to_ns(now_ns)):
                self.step(to_ns(now_ns), event)
        self.tell_wakeup()
        return self.answers

    @staticmethod
    def options(values: dict[str, str]) -> dict[str, object]:
        readers: dict[str, Callable[[str], object]] = {
            "policy": str,
            "control": to_ns,
            "lead": to_ns,
            "window": to_ns,
            "epoch": to_ns,
            "shed": lambda text: text == "yes",
            "early": lambda text: text == "yes",
            "target_share": float,
            "request_count_max": int,
        }
        times = {"control", "lead", "window", "epoch"}
        return {(f"{name}_ns" if name in times else name): readers[name](text) for name, text in values.items()}

    @staticmethod
    def events(verb: str, number: str, values: dict[str, str], now_ns: int) -> list[Event]:
        """Return the events that a command stands for."""
        times = {name: to_ns(values[name]) for name in ("slo", "margin", "delay", "deadline", "at") if name in values}
        if verb == "arrive":
            first, _, last = number.partition("..")
            ids = range(int(first), int(last or first) + 1)
            rest = int(values["model"]), times["deadline"], int(values.get("priority", "4"))
            return [RequestArrived(id_, *rest) for id_ in ids]
        n = int(number)
        gpu = int(values.get("gpu", "-1"))
        if verb == "model":
            table = [to_ns(text) for text in values["profile"].split(",")] if "profile" in values else []
            size = int(values.get("size", len(table)))
            timeout = times.get("delay", 0), int(values.get("preferred", "0"))
            added = ModelAdded(n, times["slo"], size, times.get("margin", 0), *timeout)
            return [added, ProfileChanged(n, 0, tuple(table))] if table else [added]
        if verb == "profile":
            table = [to_ns(text) for text in values["latency"].split(",")]
            return [ProfileChanged(n, int(values.get("kind", "0")), tuple(table))]
        if verb == "gpu":
            models = [int(text) for text in values.get("models", "").split(",") if text]
            return [GpuJoined(n, int(values.get("kind", "0"))), *(ModelPlaced(m, n) for m in models)]
        if verb in ("started", "finished"):
            event_type = BatchStarted if verb == "started" else BatchFinished
            return [event_type(n, gpu, times.get("at", now_ns))]
        one_event: dict[str, Callable[[], Event]] = {
            "cancel": lambda: RequestCancelled(n),
            "margin": lambda: MarginChanged(n, times["margin"]),
            "remove": lambda: ModelRemoved(n),
            "place": lambda: ModelPlaced(n, gpu),
            "evict": lambda: ModelEvicted(n, gpu),
            "left": lambda: GpuLeft(n),
            "drained": lambda: GpuDrained(n),
            "restored": lambda: GpuRestored(n),
        }
        return [one_event[verb]()]

    def run(self, until_ns: int) -> None:
        while self.scheduler.wakeup_ns <= until_ns:
            now_ns = self.scheduler.wakeup_ns
            self.answers.append(f"at {to_text(now_ns)}")
            self.step(now_ns, None)

    def step(self, now_ns: int, event: Event | None) -> None:
        try:
            decisions = self.scheduler.step(now_ns, event)
        except ValueError as error:
            # What the message says is checked elsewhere; here it may be worded anew without a diff.
            self.answers.append(f"error: {type(error).__name__}")
            return
        for decision in decisions:
            if isinstance(decision, Drop):
                self.answers.append(f"drop {decision.id}: {decision.reason}")
            else:
                self.answers.append(self.describe(decision))

    @staticmethod
    def describe(plan: Dispatch) -> str:
        window = f"{to_text(plan.start_at_ns)} to {to_text(plan.finish_at_ns)}"
        ids = ",".join(map(str, plan.ids))
        return f"dispatch plan {plan.plan_id} on GPU {plan.gpu}: model {plan.model}, requests {ids}, {window}"

    def tell_wakeup(self) -> None:
        if self.scheduler.wakeup_ns != self.wakeup_ns:
            self.wakeup_ns = self.scheduler.wakeup_ns
            self.answers.append(f"wakeup {to_text(self.wakeup_ns)}")


def replay(text: str, make: Callable[..., Scheduler | OracleScheduler]) -> str:
    """Return the transcript with the answers that a scheduler made by `make` gives."""
    lines = []
    scenario = Replay(make)
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [INDENT + answer for answer in scenario.command(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_core_answers_as_in_the_transcript(path):
    expected = path.read_text()
    actual = replay(expected, Scheduler)
    if IS_REWRITTEN:
        path.write_text(actual)
    else:
        assert actual == expected


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_oracle_answers_as_in_the_transcript(path):
    expected = path.read_text()
    assert decided(replay(expected, OracleScheduler)) == decided(expected)


def decided(transcript: str) -> list[str]:
    """Return a transcript without wakeups and calls that decided nothing: the core may ask for a call too early."""
    lines = [line for line in transcript.splitlines() if not line.startswith(INDENT + "wakeup")]
    answers = [line.startswith(INDENT) and not line.startswith(INDENT + "at ") for line in lines] + [False]
    return [
        line for line, is_answered in zip(lines, answers[1:], strict=True)
        if not line.startswith(INDENT + "at ") or is_answered
    ]  # fmt: skip


def test_there_are_transcripts_to_replay():
    assert len(TRANSCRIPTS) >= 8
