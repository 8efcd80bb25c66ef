"""Figure 5: where KL and SFT loss lie on a solved example, and on average over 200 of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import INK, new_figure, not_run_note, points
from benchmarks.report.measures import CLASSES, DECISIONS, STEPS
from benchmarks.store.records import Study

LOOKS = {  # token class: colour, hatch, label
    "choice": ("#D55E00", "", "decision: choice of the plan"),
    "commitment": ("#E69F00", "//", "decision: go on or guess"),
    "style": ("#CC79A7", "..", "style"),
    "routine": ("#BBBBBB", "", "routine"),
}
PANELS = (("kl", "mean KL, nats a token"), ("nll", "mean SFT loss, nats a token"))
AGGREGATES = {
    "tokens": "tokens",
    "kl": "KL mass",
    "kl_kept": "KL mass\nup to δ=1",
    "nll": "SFT loss",
}


def _look(kind: str) -> dict[str, str]:
    colour, hatch, _ = LOOKS[kind]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white"}


def needs(study: Study) -> list[Need]:
    model = measures.model_of(study, STEPS)
    return [(model, "sft")] if model else []


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(2, 2, width=9.0, height=5.6)
    grid = axes[0, 0].get_gridspec()
    grid.set_width_ratios([1.75, 1.0])
    axes[0, 1].remove()
    axes[1, 1].remove()
    side = drawn.add_subplot(grid[:, 1])
    example = measures.step_example(study)
    for axis, (quantity, unit) in zip(axes[:, 0], PANELS, strict=True):
        axis.set_ylabel(unit)
        if example is None:
            not_run_note(axis, _absent(study))
        else:
            _steps(axis, example, quantity)
    _shares(side, study)
    handles = [Patch(label=LOOKS[kind][2], **_look(kind)) for kind in CLASSES]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(CLASSES))
    return drawn


def _steps(axis: Axes, example: Mapping[str, Any], quantity: str) -> None:
    """One bar a step: the mean of the quantity over the step's tokens, coloured by its kind."""
    values, kinds, texts = step_means(example, quantity)
    places = np.arange(len(values))
    for place, value, kind in zip(places, values, kinds, strict=True):
        axis.bar(place, value, width=0.8, **_look(kind))
    axis.set_xticks(places, texts, rotation=40, ha="right", fontfamily="DejaVu Sans Mono")
    axis.grid(axis="x", visible=False)
    if quantity == "kl":
        axis.set_title("One problem: 0 of 8 autonomous answers right")
        axis.axhline(1.0, color=INK, linewidth=0.9, linestyle="--")
        axis.text(len(values) - 0.6, 1.0, "δ = 1", ha="right", va="bottom", fontsize=8, color=INK)
        axis.set_ylim(0, max(1.25, 1.1 * max(values)))


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
    axis.set_title("Share of the total, many problems")
    axis.set_xlabel("share, %")
    axis.set_xlim(0, 100)
    if measures.token_share(study, "tokens", DECISIONS) is None:
        not_run_note(axis, _absent(study))
        return
    places = np.arange(len(AGGREGATES))[::-1]
    left = np.zeros(len(AGGREGATES))
    for kind in CLASSES:
        widths = np.array([measures.token_share(study, q, (kind,)).mean for q in AGGREGATES])
        axis.barh(places, widths, left=left, height=0.62, **_look(kind))
        left += widths
    for place, quantity in zip(places, AGGREGATES, strict=True):
        interval = measures.token_share(study, quantity, DECISIONS).interval
        points(axis, [interval], [place], color=INK, capsize=4, elinewidth=1.4)
        axis.text(
            min(interval.mean, 84.0), place + 0.36, f"decisions {interval.mean:.0f}%",
            ha="center", va="bottom", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(places, [*AGGREGATES.values()])
    axis.set_ylim(-0.6, len(AGGREGATES) - 0.3)
    axis.grid(axis="y", visible=False)


def _absent(study: Study) -> str:
    return "not run" if not study.analyses_of(STEPS) else "no problem met the rule"


def example_text(study: Study) -> str:
    """The example in words: problem, strategy, completion."""
    example = measures.step_example(study)
    if example is None:
        return f"Example: {_absent(study)}."
    written = "".join(example["pieces"]).replace("<|end|>", "")
    return (
        f"The example is problem {example['problem_id']}, the first of the RL split that the rule "
        f"picks at the warm-up of seed {study.analyses_of(STEPS)[0].seed} "
        f"({example['guided_right']} of 4 guided answers right). Problem: "
        f"{_flat(example['question'])}. Strategy: {_flat(example['strategy'])}. Completion: "
        f"{_flat(written)}."
    )


def _flat(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines())


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
        f"target of Eq. 4. Left: the first such problem of the first seed; KL is the forward KL "
        f"of Eq. 3, SFT loss the negative log-likelihood, both under the unguided prompt, means "
        f"over the tokens of a step. Decision tokens come from the world's own ground truth. "
        f"Right: {sum(counts)} such problems ({min(counts)} to {max(counts)} a seed, "
        f"{len(counts)} seeds, {looked} problems sampled); whisker: 95% interval of the share of "
        f"decision tokens, over seeds and their problems. The first word of a line also carries "
        f"the style shift of guided texts, which open with other words 3 times in 10."
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
    text=example_text,
    analyses=(STEPS,),
    extended=True,
    miniature=True,
)
