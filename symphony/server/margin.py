"""Measure how much later than predicted a batch's answers leave, and keep that much time free before deadlines."""

from __future__ import annotations

from symphony.units import NS_PER_MS, NS_PER_S

SAMPLE_COUNT_MAX = 1024
ADJUST_EVERY_NS = NS_PER_S
STEP_NS = NS_PER_MS // 10
HEADROOM = 1.5
"""Margin relative to the longest overrun remembered, while there are GPUs to spare."""


class MarginEstimator:
    """Keep one model's margin: the time between a batch's predicted end and its requests' deadlines.

    It starts at `floor_ns` and follows the measured overrun (last answer written minus predicted end, over the last
    `SAMPLE_COUNT_MAX` batches), never below `floor_ns` nor above `ceiling_ns`: jitter of the device, lateness of
    threads, and the time to encode and write a batch's answers are all in it. Near the GPUs' limit each millisecond
    costs goodput, and the 99th percentile is the best buy; with GPUs to spare it is half as much again as the longest
    overrun, so that no request is late but by something unheard of.
    """

    def __init__(self, floor_ns: int, ceiling_ns: int) -> None:
        self.floor_ns = min(floor_ns, ceiling_ns)
        self.ceiling_ns = ceiling_ns
        self.margin_ns = self.floor_ns
        self._overruns_ns: list[int] = []
        self._next = 0
        self._adjust_at_ns = 0

    def observe(self, overrun_ns: int, now_ns: int, has_room: bool) -> bool:
        """Take one batch's overrun; return whether `margin_ns` changed, at most once per `ADJUST_EVERY_NS`.

        `has_room`: there are GPUs to spare.
        """
        if len(self._overruns_ns) < SAMPLE_COUNT_MAX:
            self._overruns_ns.append(overrun_ns)
        else:
            self._overruns_ns[self._next] = overrun_ns
            self._next = (self._next + 1) % SAMPLE_COUNT_MAX
        if now_ns < self._adjust_at_ns:
            return False
        self._adjust_at_ns = now_ns + ADJUST_EVERY_NS
        ordered = sorted(self._overruns_ns)
        if has_room:
            wanted_ns = round(HEADROOM * ordered[-1])
        else:
            wanted_ns = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        wanted_ns = max(self.floor_ns, min(self.ceiling_ns, wanted_ns))
        if abs(wanted_ns - self.margin_ns) < STEP_NS:
            return False
        self.margin_ns = wanted_ns
        return True
