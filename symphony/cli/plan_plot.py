"""Draw a plan. Needs matplotlib, which only this module imports."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symphony.errors import ConfigError
from symphony.plan import Plan
from symphony.sim.sweep import GOOD_SHARE_MIN

SIZE_INCHES = (11.0, 7.0)
MODEL_COUNT_MAX = 20


def plot_plan(plan: Plan, file: Path) -> None:
    """Draw goodput and GPUs in use over load, growth, and SLO costs; raise ConfigError if `file` cannot be written."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    (goodput, used), (growth, costs) = figure.subplots(2, 2)
    offered = [point.offered_rate for point in plan.curve]
    goodput.plot(offered, offered, color="gray", linestyle="--", linewidth=1, label="offered")
    goodput.plot(offered, [point.good_rate for point in plan.curve], marker="o", label="good")
    goodput.set(xlabel="requests/s offered", ylabel="requests/s", ylim=(0, None), title="goodput")
    goodput.legend(fontsize="small")
    used.plot(offered, [point.gpus_in_use for point in plan.curve], marker="o", label="GPUs in use")
    used.set(xlabel="requests/s offered", ylabel="GPUs in use", ylim=(0, None))
    shares = used.twinx()
    shares.plot(offered, [point.good_share for point in plan.curve], color="tab:red", linewidth=1)
    shares.axhline(GOOD_SHARE_MIN, color="tab:red", linewidth=1, linestyle=":")
    shares.set(ylabel="share good", ylim=(0, 1.02))
    answer = plan.answer
    gpus = answer.count.gpus if answer else 0
    points = sorted([*((one.load, one.gpus) for one in plan.growth), *([(1.0, gpus)] if gpus else [])])
    growth.plot([load for load, _ in points], [count for _, count in points], marker="o")
    growth.set(xlabel="times the load", ylabel="GPUs needed", xlim=(0, None), ylim=(0, None), title="growth")
    _draw_costs(costs, plan, gpus)
    pool = " + ".join(f"{count} x {kind}" for kind, count in plan.pool) or "no pool"
    figure.suptitle(f"{pool}, seed {plan.seed}, digest {plan.digest()}")
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot draw {file}: {error}; name a .png, .svg or .pdf file that can be written") from error


def _draw_costs(axes: Axes, plan: Plan, gpus: int) -> None:
    """Draw two bars a model: GPUs more or less with half and with twice its SLO."""
    names = list(dict.fromkeys(cost.model for cost in plan.slo_costs))[:MODEL_COUNT_MAX]
    for offset, turn, label in ((-0.2, 0, "halved"), (0.2, 1, "doubled")):
        changes = [[cost for cost in plan.slo_costs if cost.model == name][turn] for name in names]
        places = [place + offset for place, cost in enumerate(changes) if cost.gpus]
        axes.barh(places, [cost.change for cost in changes if cost.gpus], height=0.4, label=label)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.axvline(0, color="gray", linewidth=1)
    axes.set(xlabel=f"GPUs more or less than {gpus}", title="with one model's SLO")
    axes.legend(fontsize="small")
