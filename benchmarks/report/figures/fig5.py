"""Figure 5: where KL and SFT loss lie on a solved example, and on average over many of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import (
    INK,
    absent,
    class_legend,
    class_look,
    new_figure,
    points,
)
from benchmarks.report.measures import CLASSES, DECISIONS, STEPS
from benchmarks.store.records import NOT_RUN, Study

PANELS = {"kl": "mean KL", "nll": "mean SFT loss"}
AGGREGATES = {
    "tokens": "tokens",
    "nll": "SFT loss",
    "kl": "KL mass",
    "kl_kept": "KL mass\nup to δ=1",
}


def needs(study: Study) -> list[Need]:
    model = measures.model_of(study, STEPS)
    return [(model, "sft")] if model else []


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(2, 2, width=7.2, height=5.0, width_ratios=(1.6, 1.0))
    grid = axes[0, 1].get_gridspec()
    axes[0, 1].remove()
    axes[1, 1].remove()
    example = measures.step_example(study)
    top = 1.0
    for axis, (quantity, name) in zip(axes[:, 0], PANELS.items(), strict=True):
        axis.set_ylabel(f"{name},\nnats a token")
        if example is None:
            absent(axis, why=_absent(study))
        else:
            top = max(top, _steps(axis, example, quantity))
    for axis in axes[:, 0]:
        axis.set_ylim(0, 1.15 * top)
    axes[0, 0].set_title("One problem: 0 of 8 autonomous answers right")
    axes[0, 0].axhline(1.0, color=INK, linewidth=0.9, linestyle="--")
    axes[0, 0].text(0.99, 1.02, "δ = 1", ha="right", va="bottom", fontsize=8,
                    transform=axes[0, 0].get_yaxis_transform())  # fmt: skip
    axes[0, 0].tick_params(labelbottom=False)
    _shares(drawn.add_subplot(grid[:, 1]), study)
    class_legend(drawn)
    return drawn


def _steps(axis: Axes, example: Mapping[str, Any], quantity: str) -> float:
    """One bar a step: the mean of the quantity over its tokens; the highest bar."""
    values, kinds, texts = step_means(example, quantity)
    for place, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        axis.bar(place, value, width=0.8, **class_look(kind))
    axis.set_xticks(range(len(values)), texts, rotation=45, ha="right", fontsize=7.5,
                    fontfamily="DejaVu Sans Mono")  # fmt: skip
    axis.grid(axis="x", visible=False)
    return max(values)


def step_means(
    example: Mapping[str, Any], quantity: str
) -> tuple[list[float], list[str], list[str]]:
    """Mean of ``kl`` or ``nll`` over the tokens of each step, the step's kind and its text."""
    values, kinds, texts = [], [], []
    for step in example["steps"]:
        part = slice(step["start"], step["stop"])
        values.append(float(np.mean(example[quantity][part])))
        kinds.append(step["kind"])
        text = "".join(example["pieces"][part]).replace("\n", "").replace("<|end|>", "")
        texts.append(text.replace("\\boxed", "box").strip())
    return values, kinds, texts


def _shares(axis: Axes, study: Study) -> None:
    """Each quantity's share by token class, with the interval of the decisions' share."""
    axis.set(title="Share of the total, many problems", xlabel="share, %", xlim=(0, 100))
    if measures.token_share(study, "tokens", DECISIONS) is None:
        absent(axis, why=_absent(study))
        return
    places = np.arange(len(AGGREGATES))[::-1]
    left = np.zeros(len(AGGREGATES))
    for kind in CLASSES:
        widths = np.array([measures.token_share(study, q, (kind,)).mean for q in AGGREGATES])
        axis.barh(places, widths, left=left, height=0.55, **class_look(kind))
        left += widths
    for place, quantity in zip(places, AGGREGATES, strict=True):
        share = measures.token_share(study, quantity, DECISIONS)
        points(axis, [share], [place], color=INK, marker="", capsize=4)
        axis.text(0, place + 0.3, f"decisions {share.mean:.0f}%", va="bottom", fontsize=8)
    axis.set_yticks(places, [*AGGREGATES.values()])
    axis.set_ylim(-0.5, len(AGGREGATES) - 0.4)
    axis.grid(axis="y", visible=False)


def _absent(study: Study) -> str:
    return NOT_RUN if not study.analyses_of(STEPS) else "no problem met the rule"


def caption(study: Study) -> str:
    found = study.analyses_of(STEPS)
    model = measures.model_of(study, STEPS)
    if not found:
        return f"{FIG5.title}: not run. Made by: {study.command(FIG5.name)}"
    counts = [len(a.result["problems"]) for a in found]
    looked = sum(a.result["looked_at"] for a in found)
    return (
        f"Figure 5 ({study.profile} profile), {study.model(model).label} at the warm-up "
        f"checkpoint. Rule, stated before the numbers: problems of the RL split in their order "
        f"with 0 of 8 autonomous and at least 1 of 4 guided answers right; of these the reachable "
        f"target of Eq. 4. Left: the first such problem of the first seed, the one shown above; KL "
        f"is the forward KL of Eq. 3, SFT loss the negative log-likelihood, both under the "
        f"unguided prompt, means over the tokens of a step. Decision tokens come from the world's "
        f"own ground truth. Right: {sum(counts)} such problems ({min(counts)} to {max(counts)} a "
        f"seed, {len(counts)} seeds, {looked} problems sampled); whisker: 95% interval of the "
        f"share of decision tokens."
    )


FIG5 = Artefact(
    "fig5",
    "Figure 5: KL against SFT loss, step by step",
    "metrics",
    needs,
    caption,
    draw=figure,
    alt="Mean KL and mean SFT loss of each step of one solved problem; shares of tokens, KL mass "
    "and SFT loss by token class over many problems",
    analyses=(STEPS,),
    extended=True,
    miniature=True,
)
