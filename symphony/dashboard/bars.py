"""Turn batches into the bars of a timeline, and many bars into few when there are more than anybody could see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Bar:
    """A batch, or `count` batches of one GPU drawn as one. Instants are microseconds on the stream's clock.

    `size`: requests in all of them. `frontrun_us`, `latest_us`: the schedulable window's ends, relative to the start;
    0 and 0 for several. `model` is the number it has in the stream.
    """

    gpu: int
    model: int
    size: int
    start_us: int
    end_us: int
    frontrun_us: int
    latest_us: int
    fate: int
    """A `Fate`."""
    count: int = 1


def thin(bars: list[Bar], limit: int) -> list[Bar]:
    """Return at most `limit` bars (but one for each GPU at least) that cover what `bars` cover.

    Neighbours on a GPU are joined where they begin in the same stretch of time: those of one model, if that is enough,
    otherwise of all models, and then the bar has the colour of the model that ran longest. Linear in `bars`.
    """
    if len(bars) <= limit:
        return bars
    joined = _join(bars, limit, is_by_model=True)
    return joined if len(joined) <= limit else _join(bars, limit, is_by_model=False)


def _join(bars: Iterable[Bar], limit: int, is_by_model: bool) -> list[Bar]:
    by_gpu: dict[int, list[Bar]] = {}
    for bar in bars:
        by_gpu.setdefault(bar.gpu, []).append(bar)
    first_us = min(bar.start_us for own in by_gpu.values() for bar in own)
    last_us = max(bar.start_us for own in by_gpu.values() for bar in own)
    stretches = max(1, limit // len(by_gpu))
    width_us = (last_us - first_us) // stretches + 1
    result: list[Bar] = []
    for own in by_gpu.values():
        groups: dict[tuple[int, int], list[Bar]] = {}
        for bar in own:
            key = ((bar.start_us - first_us) // width_us, bar.model if is_by_model else -1)
            groups.setdefault(key, []).append(bar)
        result += [_one(group) for group in groups.values()]
    return result


def _one(group: list[Bar]) -> Bar:
    """Return one bar for all of them."""
    if len(group) == 1:
        return group[0]
    ran_us: dict[int, int] = {}
    for bar in group:
        ran_us[bar.model] = ran_us.get(bar.model, 0) + bar.end_us - bar.start_us
    return Bar(
        group[0].gpu,
        max(ran_us, key=lambda model: ran_us[model]),
        sum(bar.size for bar in group),
        min(bar.start_us for bar in group),
        max(bar.end_us for bar in group),
        0,
        0,
        max(bar.fate for bar in group),
        sum(bar.count for bar in group),
    )
