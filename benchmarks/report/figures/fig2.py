"""Figure 2 as a measurement: the probability of every plan of a type, before and after training.

The paper's Figure 2 is a drawing of what forward and reverse KL do to a policy with several
strategies. In the mini world the strategies of a type are its 64 plans, and the policy's
probability of each can be read off exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.report import plan_shares
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import Score
from benchmarks.report.figures import style
from benchmarks.report.plan_shares import METHODS
from benchmarks.store.records import Study

NAME = "fig2"
TITLE = "Figure 2: what training does to the plans"
USES = "metrics"
ANALYSES = (plan_shares.ANALYSIS,)
LABELS = {
    "sft": "before: warm-up",
    "grpo": "SFT+GRPO",
    "sgpo": "SGPO, forward KL",
    "sgpo_reverse": "SGPO, reverse KL",
}
MARKERS = {"sft": "o", "grpo": "s", "sgpo": "^", "sgpo_reverse": "v"}
RANKS = 64


def needs(study: Study) -> list[tuple[str, str]]:
    model = plan_shares.model_of(study)
    return [(model, method) for method in METHODS] if model else []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/fig2.{png,pdf}."""
    figure, axes = style.new_figure(2, 2, width=8.4, height=5.8)
    grid = axes[0, 0].get_gridspec()
    axes[0, 0].remove()
    axes[0, 1].remove()
    top = figure.add_subplot(grid[0, :])
    panels = (top, axes[1, 0], axes[1, 1])
    draws = (_draw_types, _draw_sorted, _draw_entropy)
    for axis, draw in zip(panels, draws, strict=True):
        if plan_shares.types_by_difficulty(study):
            draw(axis, study)
        else:
            style.not_run_note(axis, "not run")
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_types(axis, study: Study) -> None:
    """The right plan's probability of every type, hardest type first."""
    axis.set_title("Probability of the one right plan, by problem type")
    axis.set_ylabel("probability, 0 to 1")
    kinds = plan_shares.types_by_difficulty(study)
    places = np.arange(len(kinds))
    for offset, method in zip((-0.24, -0.08, 0.08, 0.24), METHODS, strict=True):
        scores = [plan_shares.of_type(study, method, kind, "right") for kind in kinds]
        _points(axis, places + offset, scores, method)
    for place in places[1::2]:
        axis.axvspan(place - 0.5, place + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    axis.set_xticks(places, kinds, rotation=30, ha="right")
    axis.set_xlim(-0.6, len(kinds) - 0.4)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("problem type, from least to most likely before training")
    axis.legend(loc="lower right", ncols=2)


def _points(axis, places, scores: list[Score | None], method: str) -> None:
    found = [score.interval for score in scores if score is not None]
    means = np.array([i.mean for i in found])
    arms = np.array([[i.mean - i.low for i in found], [i.high - i.mean for i in found]])
    axis.errorbar(
        places, means, yerr=np.maximum(arms, 0.0), color=style.COLOURS[method],
        marker=MARKERS[method], markersize=4.5, capsize=1.5, elinewidth=1.0, linestyle="none",
        label=LABELS[method],
    )  # fmt: skip


def _draw_sorted(axis, study: Study) -> None:
    """Mass of the likeliest, second likeliest, ... plan."""
    axis.set_title("Plans of a type from likely to unlikely (colours as above)")
    axis.set_xlabel("rank of the plan among 64 (log scale)")
    axis.set_ylabel("probability (log scale)")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ranks = np.arange(1, RANKS + 1)
    for method in METHODS:
        mass = plan_shares.sorted_mass(study, method)
        look = {"color": style.COLOURS[method]}
        axis.fill_between(ranks, mass.min(0), mass.max(0), alpha=0.18, linewidth=0, **look)
        axis.plot(ranks, mass.mean(0), linestyle=style.LINES.get(method, "-"), **look)
    axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axis.axhline(1 / RANKS, color=style.INK, linewidth=0.8, linestyle=":")
    axis.text(1.05, 0.9 / RANKS, "uniform", va="top", fontsize=8)
    axis.set_ylim(1e-5, 1.2)


def _draw_entropy(axis, study: Study) -> None:
    """Entropy over the plans and mass on the right one, averaged over types."""
    axis.set_title("Average over the types (marks as above)")
    axis.set_xlabel("entropy over the 64 plans, nats")
    axis.set_ylabel("probability of the right plan, 0 to 1")
    for method in METHODS:
        right, entropy = (
            plan_shares.of_all(study, method, q).interval for q in ("right", "entropy")
        )
        axis.errorbar(
            [entropy.mean], [right.mean],
            xerr=_arms(entropy), yerr=_arms(right), color=style.COLOURS[method],
            marker=MARKERS[method], markersize=6, capsize=2.5, elinewidth=1.1, linestyle="none",
        )  # fmt: skip
    axis.set_ylim(0, 1)
    axis.set_xlim(left=0)


def _arms(interval) -> list[list[float]]:
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return [[max(below, 0.0)], [max(above, 0.0)]]


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Probability of the right plan by problem type, sorted plan probabilities, and "
            "plan entropy, before training and after SFT+GRPO and SGPO with forward and reverse "
            "KL",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = plan_shares.model_of(study)
    found = study.analyses_of(plan_shares.ANALYSIS)
    if model is None or not found:
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    count = found[0].result["tasks_per_type"]
    return (
        f"Figure 2 as a measurement ({study.profile} profile), {study.model(model).label}, "
        f"{len(found)} seeds. A plan is three choices of four options each, so a type has 64 and "
        f"one of them is right. Its probability under the unguided prompt is exact: the product "
        f"of the model's choice probabilities along the faithful derivation, mean over {count} "
        f"held-out problems a type. Whiskers: 95% intervals over seeds; bands: lowest to highest "
        f"seed. Sorted plans: each type by itself, then averaged."
    )
