"""Two reward curves and who reaches the other's final reward how much sooner."""

from __future__ import annotations

import numpy as np

from benchmarks.report import equal_reward
from benchmarks.report.equal_reward import METRIC, EqualReward
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import plot_method
from benchmarks.store.records import Study


def draw_race(axis, study: Study, model: str | None, first: str, second: str) -> None:
    """Both reward curves with their bands, the level of comparison and the steps to reach it."""
    axis.set_xlabel("training step")
    axis.set_ylabel("mean reward, 0 to 1")
    axis.margins(x=0.01)
    if model is None:
        style.not_run_note(axis, "not run")
        return
    for method in (first, second):
        plot_method(axis, study, model, method, METRIC)
    found = equal_reward.compare(study, model, first, second)
    axis.set_ylim(0.0, 1.0)
    if found is not None:
        axis.axhline(found.level, color=style.INK, linewidth=0.8, linestyle=":")
        for method, step in zip((first, second), found.steps, strict=True):
            axis.plot(
                [step, step], [0.0, found.level], color=style.COLOURS[method], linewidth=0.9,
                linestyle=":",
            )  # fmt: skip
            axis.plot(
                [step], [0.0], marker="^", color=style.COLOURS[method], clip_on=False,
                markersize=6, zorder=5,
            )  # fmt: skip
        axis.text(
            0.02, found.level + 0.012, f"equal reward: {factor_text(found)}",
            transform=axis.get_yaxis_transform(), va="bottom", fontsize=8,
        )  # fmt: skip
    axis.legend(loc="upper left")


def factor_text(found: EqualReward) -> str:
    """ "1.33x sooner [1.02, 1.46]": the factor and its 95% interval; below 1 is later."""
    interval = found.log_factor.interval
    low, high = np.exp([interval.low, interval.high])
    return f"{found.factor:.2f}x [{low:.2f}, {high:.2f}]"


def race_sentence(study: Study, model: str, first: str, second: str) -> str:
    """What the dotted lines of :func:`draw_race` are."""
    found = equal_reward.compare(study, model, first, second)
    if found is None:
        return "Steps to equal reward: not run."
    names = [study.method_label(method) for method in (first, second)]
    return (
        f"Dotted: the lower of the two final rewards and the step at which each curve is there, "
        f"read off the nearest rising curve of the seeds' mean: {names[0]} after "
        f"{found.steps[0]:.1f} steps, {names[1]} after {found.steps[1]:.1f}, a factor of "
        f"{factor_text(found)} (95% interval over seeds; above 1 {names[0]} is the faster)."
    )
