"""Figure 2 as a measurement: the probability of a type's right plan, before and after training.

The paper's Figure 2 is a drawing of what forward and reverse KL do to a policy with several
strategies. In the mini world the strategies of a type are its plans, and the policy's probability
of each can be read off exactly.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import Score, units_text
from benchmarks.report.figures.axes import absent, legend, marks, new_figure, points, zero
from benchmarks.report.measures import PLAN_METHODS, PLANS
from benchmarks.store.records import Study

LABELS = {
    "sft": "before: warm-up",
    "grpo": "SFT+GRPO",
    "sgpo": "SGPO, forward KL",
    "sgpo_reverse": "SGPO, reverse KL",
}
OTHERS = ("grpo", "sgpo_reverse")  # what the forward KL is compared with
EVERY = "mean of all"


def needs(study: Study) -> list[Need]:
    model = measures.model_of(study, PLANS)
    return [(model, method) for method in PLAN_METHODS] if model else []


def rows(study: Study) -> dict[str, int | None]:
    """Name -> group of types, from the least likely before training; and the mean of all."""
    found = measures.plan_groups(study)
    if not found:
        return {}
    ends = np.cumsum([len(group) for group in found[0]]).tolist()
    starts = [1, *(end + 1 for end in ends[:-1])]
    names = [f"{a} to {b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True)]
    return {name: group for group, name in enumerate(names)} | {EVERY: None}


def right(study: Study, method: str, group: int | None) -> Score | None:
    """Probability of the right plan in a group of types, or in all."""
    return measures.plan_quantity(study, method, "right", group)


def figure(study: Study) -> Figure:
    """A row a group of types: the probability after each method, and the forward KL's paired
    difference."""
    kinds = rows(study)
    drawn, axes = new_figure(1, 2, width=7.2, height=1.5 + 0.27 * len(kinds), sharey=True)
    left, differences = axes[0]
    for method, shift in zip(PLAN_METHODS, (-0.27, -0.09, 0.09, 0.27), strict=True):
        scores = [right(study, method, group) for group in kinds.values()]
        places = [y + shift for y in range(len(kinds))]
        points(left, scores, places, label=LABELS[method], **marks(method), markersize=4)
    for method, shift in zip(OTHERS, (-0.15, 0.15), strict=True):
        gaps = [
            right(study, "sgpo", group) - right(study, method, group) for group in kinds.values()
        ]
        points(differences, gaps, [y + shift for y in range(len(kinds))], **marks(method))
    left.set(title="Probability of the one right plan", xlabel="probability, 0 to 1")
    left.set_xlim(-0.02, 1.02)
    left.set_yticks(range(len(kinds)), list(kinds))
    left.set_ylabel("types, hardest first")
    left.invert_yaxis()
    differences.set(title="Forward KL minus the other, paired", xlabel="difference in probability")
    zero(differences, upright=True)
    if not kinds:
        absent(left)
    else:
        left.axhline(len(kinds) - 1.5, color="#BBBBBB", linewidth=0.8)
        differences.axhline(len(kinds) - 1.5, color="#BBBBBB", linewidth=0.8)
    legend(drawn, [left])
    return drawn


def caption(study: Study) -> str:
    model = measures.model_of(study, PLANS)
    found = study.analyses_of(PLANS)
    if not found:
        return f"{FIG2.title}: not run. Made by: {study.command(FIG2.name)}"
    result = found[0].result
    before, after = (
        measures.plan_quantity(study, method, "entropy").mean for method in ("sft", "sgpo")
    )
    return (
        f"Figure 2 as a measurement ({study.profile} profile), {study.model(model).label}, "
        f"{units_text(study, len(found))}. A plan is three choices; one of {len(result['plans'])} "
        f"is right for a type. Its probability under the unguided prompt is exact: the product "
        f"of the model's choice probabilities along the faithful derivation, mean over the "
        f"held-out problems ({result['tasks_per_type']} a type). Rows: the types of each seed in "
        f"groups, from those whose right plan was least likely before. Whiskers: 95% intervals "
        f"over seeds; right: paired by seed, in the other's colour and mark. Entropy over the "
        f"plans falls from {before:.2f} to {after:.2f} nats with SGPO."
    )


FIG2 = Artefact(
    "fig2",
    "Figure 2: what training does to the plans",
    "metrics",
    needs,
    caption,
    draw=figure,
    alt="Probability of the right plan by difficulty of the type before training and after "
    "SFT+GRPO and SGPO with forward and reverse KL, and the paired differences",
    analyses=(PLANS,),
    extended=True,
    miniature=True,
)
