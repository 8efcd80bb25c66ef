"""Figure 2 as a measurement: the probability of every plan of a type, before and after training.

The paper's Figure 2 is a drawing of what forward and reverse KL do to a policy with several
strategies. In the mini world the strategies of a type are its 64 plans, and the policy's
probability of each can be read off exactly.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import COLOURS, INK, LINES, new_figure, not_run_note, points
from benchmarks.report.measures import PLAN_METHODS, PLANS
from benchmarks.store.records import Study

LABELS = {
    "sft": "before: warm-up",
    "grpo": "SFT+GRPO",
    "sgpo": "SGPO, forward KL",
    "sgpo_reverse": "SGPO, reverse KL",
}
MARKERS = {"sft": "o", "grpo": "s", "sgpo": "^", "sgpo_reverse": "v"}
RANKS = 64


def needs(study: Study) -> list[Need]:
    model = measures.model_of(study, PLANS)
    return [(model, method) for method in PLAN_METHODS] if model else []


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(2, 2, width=8.4, height=5.8)
    grid = axes[0, 0].get_gridspec()
    axes[0, 0].remove()
    axes[0, 1].remove()
    panels = (drawn.add_subplot(grid[0, :]), axes[1, 0], axes[1, 1])
    for axis, draw in zip(panels, (_types, _sorted_plans, _entropy), strict=True):
        if measures.plan_types(study):
            draw(axis, study)
        else:
            not_run_note(axis, "not run")
    return drawn


def _types(axis: Axes, study: Study) -> None:
    """The right plan's probability of every type, hardest type first."""
    axis.set_title("Probability of the one right plan, by problem type")
    axis.set_ylabel("probability, 0 to 1")
    kinds = measures.plan_types(study)
    places = np.arange(len(kinds))
    for offset, method in zip((-0.24, -0.08, 0.08, 0.24), PLAN_METHODS, strict=True):
        scores = {
            place: measures.plan_quantity(study, method, "right", kind)
            for place, kind in zip(places + offset, kinds, strict=True)
        }
        found = {place: score.interval for place, score in scores.items() if score}
        points(axis, [*found], [*found.values()], color=COLOURS[method], marker=MARKERS[method],
               markersize=4.5, capsize=1.5, elinewidth=1.0, label=LABELS[method])  # fmt: skip
    for place in places[1::2]:
        axis.axvspan(place - 0.5, place + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    axis.set_xticks(places, kinds, rotation=30, ha="right")
    axis.set_xlim(-0.6, len(kinds) - 0.4)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("problem type, from least to most likely before training")
    axis.legend(loc="lower right", ncols=2)


def _sorted_plans(axis: Axes, study: Study) -> None:
    """Mass of the likeliest, second likeliest, ... plan."""
    axis.set_title("Plans of a type from likely to unlikely (colours as above)")
    axis.set_xlabel("rank of the plan among 64 (log scale)")
    axis.set_ylabel("probability (log scale)")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ranks = np.arange(1, RANKS + 1)
    for method in PLAN_METHODS:
        mass = measures.plan_mass(study, method)
        look = {"color": COLOURS[method]}
        axis.fill_between(ranks, mass.min(0), mass.max(0), alpha=0.18, linewidth=0, **look)
        axis.plot(ranks, mass.mean(0), linestyle=LINES.get(method, "-"), **look)
    axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axis.axhline(1 / RANKS, color=INK, linewidth=0.8, linestyle=":")
    axis.text(1.05, 0.9 / RANKS, "uniform", va="top", fontsize=8)
    axis.set_ylim(1e-5, 1.2)


def _entropy(axis: Axes, study: Study) -> None:
    """Entropy over the plans and mass on the right one, averaged over types."""
    axis.set_title("Average over the types (marks as above)")
    axis.set_xlabel("entropy over the 64 plans, nats")
    axis.set_ylabel("probability of the right plan, 0 to 1")
    for method in PLAN_METHODS:
        right, entropy = (
            measures.plan_quantity(study, method, q).interval for q in ("right", "entropy")
        )
        points(axis, [entropy], [right], color=COLOURS[method], marker=MARKERS[method],
               markersize=6, capsize=2.5, elinewidth=1.1)  # fmt: skip
    axis.set_ylim(0, 1)
    axis.set_xlim(left=0)


def caption(study: Study) -> str:
    model = measures.model_of(study, PLANS)
    found = study.analyses_of(PLANS)
    if not found:
        return f"{FIG2.title}: not run. Made by: {study.command(FIG2.name)}"
    count = found[0].result["tasks_per_type"]
    return (
        f"Figure 2 as a measurement ({study.profile} profile), {study.model(model).label}, "
        f"{len(found)} seeds. A plan is three choices of four options each, so a type has 64 and "
        f"one of them is right. Its probability under the unguided prompt is exact: the product "
        f"of the model's choice probabilities along the faithful derivation, mean over {count} "
        f"held-out problems a type. Whiskers: 95% intervals over seeds; bands: lowest to highest "
        f"seed. Sorted plans: each type by itself, then averaged."
    )


FIG2 = Artefact(
    "fig2",
    "Figure 2: what training does to the plans",
    "metrics",
    needs,
    caption,
    draw=figure,
    alt="Probability of the right plan by problem type, sorted plan probabilities, and plan "
    "entropy, before training and after SFT+GRPO and SGPO with forward and reverse KL",
    analyses=(PLANS,),
    extended=True,
    miniature=True,
)
