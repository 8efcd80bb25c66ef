"""What training does to a policy: Figure 2 as a measurement, Figure 5, what delta masks against
what is learned at it, and what every world leaves to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from benchmarks.report import estimates, measures, worlds
from benchmarks.report.artefact import Need, described
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.report.figures.axes import (
    INK,
    absent,
    legend,
    look,
    marks,
    new_figure,
    points,
    zero,
)
from benchmarks.report.measures import CLASSES, DECISIONS, PLAN_METHODS, PLANS, STEPS
from benchmarks.report.tables.accuracy import REFERENCE, model_of, models, variant_models
from benchmarks.store.experiments import SWEEP
from benchmarks.store.records import NOT_RUN, Run, Study

BASELINE = "grpo"

# Figure 2: the probability of a type's right plan, before and after training ----------------------
# The paper's Figure 2 is a drawing of what forward and reverse KL do to a policy with several
# strategies. In the mini world the strategies of a type are its plans, and the policy's probability
# of each can be read off exactly.

PLAN_LABELS = ("before: warm-up", "SFT+GRPO", "SGPO, forward KL", "SGPO, reverse KL")
OTHERS = ("grpo", "sgpo_reverse")  # what the forward KL is compared with
EVERY = "mean of all"


def _analysed(study: Study, analysis: str, methods: tuple[str, ...]) -> list[Need]:
    return [(m, method) for m in measures.models_of(study, analysis) for method in methods]


def _groups(study: Study) -> dict[str, int | None]:
    """Name -> group of types, from the least likely before training; and the mean of all."""
    found = measures.plan_groups(study)
    if not found:
        return {}
    ends = np.cumsum([len(group) for group in found[0]]).tolist()
    starts = [1, *(end + 1 for end in ends[:-1])]
    names = [f"{a} to {b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True)]
    return {name: group for group, name in enumerate(names)} | {EVERY: None}


def _draw_plans(study: Study) -> Figure:
    """A row a group of types: the probability of the right plan after each method, and the forward
    KL's paired difference."""
    groups = _groups(study)
    rows = np.arange(len(groups))
    drawn, axes = new_figure(1, 2, height=1.6 + 0.35 * len(groups), sharey=True)
    left, differences = axes[0]
    right = {
        method: [measures.plan_quantity(study, method, "right", g) for g in groups.values()]
        for method in PLAN_METHODS
    }
    for (method, scores), label, shift in zip(
        right.items(), PLAN_LABELS, (-0.27, -0.09, 0.09, 0.27), strict=True
    ):
        points(left, scores, rows + shift, label=label, **marks(method), markersize=4)
    for method, shift in zip(OTHERS, (-0.15, 0.15), strict=True):
        gaps = [a - b for a, b in zip(right[REFERENCE], right[method], strict=True)]
        points(differences, gaps, rows + shift, **marks(method))
    left.set(title="Probability of the right plan", xlabel="probability, 0 to 1",
             xlim=(-0.02, 1.02), ylabel="types, hardest first")  # fmt: skip
    left.set_yticks(rows, [*groups])
    left.invert_yaxis()
    differences.set(title="Forward KL minus other, paired", xlabel="difference in probability")
    differences.locator_params(axis="x", nbins=5)
    zero(differences, upright=True)
    if not groups:
        absent(left)
    for axis in axes[0] if groups else ():
        axis.axhline(len(groups) - 1.5, color="#BBBBBB", linewidth=0.8)
    legend(drawn, [left], columns=2)
    return drawn


def _plans_known(study: Study) -> dict[str, Any] | None:
    found = study.analyses_of(PLANS)
    if not found:
        return None
    return {
        "model": study.model(found[0].model).label,
        "over": estimates.units_text(study, len(found)),
        "plans": len(found[0].result["plans"]),
        "tasks": found[0].result["tasks_per_type"],
        "before": measures.plan_quantity(study, "sft", "entropy").mean,
        "after": measures.plan_quantity(study, "sgpo", "entropy").mean,
    }


FIG2 = described(
    "fig2",
    lambda study: _analysed(study, PLANS, PLAN_METHODS),
    _plans_known,
    draw=_draw_plans,
)


# Figure 5: where KL and SFT loss lie on a solved example, and on average over many of them --------

CLASS_LOOKS = {  # token class: how its bars are filled, name
    "choice": ("#D55E00", "", "decision: choice of the plan"),
    "commitment": ("#E69F00", "//", "decision: go on or guess"),
    "style": ("#CC79A7", "..", "style"),
    "routine": ("#BBBBBB", "", "routine"),
}
PANELS = {"kl": "mean KL", "nll": "mean SFT loss"}
AGGREGATES = {
    "tokens": "tokens",
    "nll": "SFT loss",
    "kl": "KL mass",
    "kl_kept": "KL mass\nup to δ=1",
}


def _class_look(kind: str) -> dict[str, str]:
    colour, hatch, _ = CLASS_LOOKS[kind]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white"}


def _draw_tokens(study: Study) -> Figure:
    drawn, axes = new_figure(2, 2, height=5.2, width_ratios=(1.5, 1.0))
    grid = axes[0, 1].get_gridspec()
    for axis in axes[:, 1]:
        axis.remove()
    example, top = measures.step_example(study), 1.0
    why = NOT_RUN if not study.analyses_of(STEPS) else "no problem met the rule"
    for axis, (quantity, name) in zip(axes[:, 0], PANELS.items(), strict=True):
        axis.set_ylabel(f"{name},\nnats a token")
        if example is None:
            absent(axis, why=why)
        else:
            top = max(top, _bars_of_steps(axis, example, quantity))
    for axis in axes[:, 0]:
        axis.set_ylim(0, 1.15 * top)
    above = axes[0, 0]
    above.set_title("One problem, 0 of 8 answers right")
    above.axhline(1.0, color=INK, linewidth=0.9, linestyle="--")
    above.text(0.99, 1.02, "δ = 1", ha="right", va="bottom",
               transform=above.get_yaxis_transform())  # fmt: skip
    above.tick_params(labelbottom=False)
    _shares_of_classes(drawn.add_subplot(grid[:, 1]), study, why)
    handles = [Patch(label=name, **_class_look(kind)) for kind, (*_, name) in CLASS_LOOKS.items()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=2)
    return drawn


def _bars_of_steps(axis: Axes, example: Mapping[str, Any], quantity: str) -> float:
    """One bar a step: the mean of the quantity over its tokens; the highest bar."""
    heights, texts = [], []
    for place, step in enumerate(example["steps"]):
        part = slice(step["start"], step["stop"])
        heights.append(float(np.mean(example[quantity][part])))
        axis.bar(place, heights[-1], width=0.8, **_class_look(step["kind"]))
        text = "".join(example["pieces"][part]).replace("\n", "").replace("<|end|>", "")
        texts.append(text.replace("\\boxed", "box").strip())
    axis.set_xticks(range(len(texts)), texts, rotation=60, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axis.grid(axis="x", visible=False)
    return max(heights)


def _shares_of_classes(axis: Axes, study: Study, why: str) -> None:
    """Each quantity's share by token class; below, the decisions' share with its interval."""
    axis.set(title="Shares, many problems", xlabel="share, %", xlim=(0, 102))
    if measures.token_share(study, "tokens", DECISIONS) is None:
        absent(axis, why=why)
        return
    places = np.arange(len(AGGREGATES))[::-1]
    left = np.zeros(len(AGGREGATES))
    for kind in CLASSES:
        widths = np.array([measures.token_share(study, q, (kind,)).mean for q in AGGREGATES])
        axis.barh(places, widths, left=left, height=0.55, **_class_look(kind))
        left += widths
    for place, quantity in zip(places, AGGREGATES, strict=True):
        share = replace(measures.token_share(study, quantity, DECISIONS), share=True)
        points(axis, [share], [place - 0.36], color=INK, marker="|", capsize=3)
        axis.text(0, place + 0.29, f"decisions {share.mean:.0f}%", va="bottom")
    axis.set_yticks(places, [*AGGREGATES.values()])
    axis.set_ylim(-0.6, len(AGGREGATES) - 0.4)
    axis.grid(axis="y", visible=False)


def _tokens_known(study: Study) -> dict[str, Any] | None:
    found = study.analyses_of(STEPS)
    if not found:
        return None
    counts = [len(a.result["problems"]) for a in found]
    return {
        "model": study.model(found[0].model).label,
        "total": sum(counts),
        "least": min(counts),
        "most": max(counts),
        "seeds": len(counts),
        "looked": sum(a.result["looked_at"] for a in found),
    }


FIG5 = described(
    "fig5",
    lambda study: _analysed(study, STEPS, ("sft",)),
    _tokens_known,
    draw=_draw_tokens,
)


# What the threshold delta of Eq. 5 masks against what is learned at it, over all worlds -----------

# Panel of the figure -> its lines: classes of ``worlds.CLASSES``, name, colour, mark.
MASKS = {
    "masked of choices": (
        (("hard",), "choices, hardest third of types", "#D55E00", "o"),
        (("middle",), "choices, middle third", "#E69F00", "s"),
        (("easy",), "choices, easiest third", "#009E73", "D"),
    ),
    "masked of all other tokens": (
        (("opening",), "first token of a completion", "#0072B2", "v"),
        (("style", "commitment", "routine"), "every other token", "#777777", "x"),
    ),
}


def delta_of(method: str) -> float:
    """The threshold of a method of ``SWEEP``; SGPO has the paper's 1."""
    if method in (REFERENCE, "sgpo_no_clip"):
        return 1.0 if method == REFERENCE else math.inf
    return float(method.removeprefix("sgpo_delta"))


def _delta_text(method: str) -> str:
    delta = delta_of(method)
    return "∞" if math.isinf(delta) else f"{delta:g}"


def _of_all_tokens(run: Run) -> float:
    """The share of the KL that is masked, in percent, from the metrics, which every run has."""
    values = run.metrics.get("kl_masked_share", np.array([np.nan]))
    return PERCENT * float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


Line = tuple[str, dict[str, Any], list[Score | None]]  # name, look, a score of each of ``SWEEP``


def _masks(study: Study, model: str) -> dict[str, list[Line]]:
    """Panel -> its lines; all tokens together where no run has a ledger."""
    found = {
        panel: [
            (name, {"color": colour, "marker": mark},
             [worlds.masked_share(study, model, method, kinds) for method in SWEEP])
            for kinds, name, colour, mark in lines
        ]
        for panel, lines in MASKS.items()
    }  # fmt: skip
    if any(any(scores) for lines in found.values() for *_, scores in lines):
        return found
    whole = [estimates.run_statistic(study, model, m, _of_all_tokens) for m in SWEEP]
    return {"masked": [("all tokens", {"color": "#777777", "marker": "o"}, whole)]}


def _draw_delta(study: Study) -> Figure:
    model = model_of(study)
    gains = [estimates.gain(study, model, method, BASELINE) for method in SWEEP]
    masks, ours = _masks(study, model), look(REFERENCE, marker=True)
    drawn, axes = new_figure(len(masks) + 1, 1, height=1.6 + 2.0 * len(masks), sharex=True)
    *above, learned = axes[:, 0]
    for axis, (panel, lines) in zip(above, masks.items(), strict=True):
        _joined(axis, study, lines)
        axis.set(title=panel, ylabel="% of the KL offered", ylim=(-3, 103))
    _joined(learned, study, [("SGPO", ours, gains)])
    zero(learned)
    baseline = study.method_label(BASELINE)
    learned.set(title=f"learned: accuracy minus {baseline}'s, paired", ylabel="points")
    learned.set_xticks(range(len(SWEEP)), map(_delta_text, SWEEP))
    learned.set(xlabel="threshold δ, nats (settings, not to scale)", xlim=(-0.4, len(SWEEP) - 0.6))
    legend(drawn, above, columns=2)
    return drawn


def _joined(axis: Axes, study: Study, lines: Sequence[Line]) -> None:
    """Marks of one setting after another with their whiskers, lines side by side; a setting that
    none of them has is named."""
    for number, (name, look_of, scores) in enumerate(lines):
        places = np.arange(len(scores)) + 0.14 * (number - (len(lines) - 1) / 2)
        known = {x: score.mean for x, score in zip(places, scores, strict=True) if score}
        if known:
            axis.plot([*known], [*known.values()], label=name, **look_of | {"linewidth": 1})
            points(axis, places, scores, color=look_of["color"], marker="none")
    for number, method in enumerate(SWEEP):
        if not any(scores[number] for *_, scores in lines):
            absent(axis, study.method_label(method))


def delta_message(study: Study) -> str:
    """What the figure says, in its own numbers; "" where something is missing."""
    model = model_of(study)
    hard, easy = (
        worlds.masked_share(study, model, REFERENCE, [third]) for third in ("hard", "easy")
    )
    gains = {m: estimates.gain(study, model, m, BASELINE) for m in SWEEP}
    if hard is None or easy is None or not all(gains.values()):
        return ""
    best = max(gains, key=lambda m: gains[m].mean)
    text = (
        f"δ = 1 masks {hard.mean:.0f}% of the KL that is offered on the choices of the hardest "
        f"third of types and {easy.mean:.0f}% on those of the easiest; SGPO's gain over "
        f"{study.method_label(BASELINE)} is {gains[REFERENCE].text()} points there"
    )
    if best == REFERENCE:
        return f"{text}, and larger at no other δ. "
    more = estimates.gain(study, model, best, REFERENCE)
    return (
        f"{text} and largest at δ = {_delta_text(best)}, chosen with hindsight: "
        f"{gains[best].text()} points, {more.text()} points against δ = 1. "
    )


def _delta_known(study: Study) -> dict[str, str]:
    model = model_of(study)
    counts = sorted({len(study.cells_of(model, method)) for method in SWEEP})
    return {
        "message": delta_message(study),
        "model": study.model(model).label,
        "over": estimates.units_text(study, " or ".join(map(str, counts))),
        "baseline": study.method_label(BASELINE),
    }


DELTA = described(
    "delta",
    # Where SGPO's variants are planned.
    lambda study: [(m, method) for m in variant_models(study) for method in (BASELINE, *SWEEP)],
    _delta_known,
    draw=_draw_delta,
)


# What every world leaves to learn, type by type ---------------------------------------------------

# Stage, pass rate, title: what the conditions of `sgpo mini check` are about.
STAGES = (
    ("base", "unguided", "base,\nalone"),
    ("base", "foreign", "base, foreign\nstrategy"),
    ("sft", "guided", "warm-up,\nown strategy"),
    ("grpo", "unguided", "SFT+GRPO,\nalone"),
)
OPEN = (0.15, 0.85)  # as in sgpo.mini.window: a type that can still tell methods apart
RATES = (  # from the bottom, the open ones first: they are what is counted
    ("open", "#F0E442"),
    ("mostly right, above 0.85", "#009E73"),
    ("rarely right, below 0.15", "#0072B2"),
)
ENOUGH = 0.5  # share of types that SFT+GRPO should leave open


def _stage_needs(study: Study) -> list[Need]:
    """Where base model, warm-up and SFT+GRPO are run world by world."""
    stages = dict.fromkeys(method for method, *_ in STAGES)
    found = [(m, s) for m in models(study) for s in stages if study.cells_of(m, s)]
    return found if worlds.planned(study) else []


def shares_of_types(study: Study, model: str, method: str, rate: str) -> dict[int, np.ndarray]:
    """World -> share of its types in each of ``RATES``, float [3]; {} where none was measured."""
    found = {}
    for run in study.runs_of(model, method, scored=False):
        if run.stored.has("regime.json"):
            rates = np.array([t[rate] for t in run.stored.object("regime.json")["types"]])
            low, high = (rates < OPEN[0]).mean(), (rates > OPEN[1]).mean()
            found[run.cell.seed] = np.array([1 - low - high, high, low])
    return found


def _draw_regime(study: Study) -> Figure:
    shown = models(study)
    drawn, axes = new_figure(len(shown), len(STAGES), height=1.2 + 1.35 * len(shown),
                             sharey=True, sharex=True)  # fmt: skip
    for line, model in zip(axes, shown, strict=True):
        line[0].set_ylabel(f"{study.model(model).label}\nshare of types")
        for axis, (method, rate, _) in zip(line, STAGES, strict=True):
            shares = shares_of_types(study, model, method, rate)
            if not shares:
                absent(axis)
            found = np.array([*shares.values()]).reshape(-1, len(RATES))
            below = np.cumsum(found, axis=1) - found
            for group, (name, colour) in enumerate(RATES):
                axis.bar([*shares], found[:, group], bottom=below[:, group], width=0.92,
                         color=colour, label=name)  # fmt: skip
            axis.axhline(ENOUGH, color=INK, linewidth=0.9, linestyle="--")
            axis.grid(visible=False)
            axis.set(ylim=(0, 1), yticks=(0, 0.5, 1))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis, (*_, title) in zip(axes[0], STAGES, strict=True):
        axis.set_title(title, fontsize="medium")
    for axis in axes[-1]:
        axis.set_xlabel("world")
    legend(drawn, [axes[0, 0]], columns=3)
    return drawn


def regime_message(study: Study) -> str:
    """How many types SFT+GRPO leaves open, from the poorest to the richest world."""
    texts = []
    for model in models(study):
        found = [part[0] for part in shares_of_types(study, model, "grpo", "unguided").values()]
        if found:
            enough = sum(share >= ENOUGH for share in found)
            texts.append(
                f"{study.model(model).label} {min(found):.0%} to {max(found):.0%} of the types, at "
                f"least half in {enough} of {len(found)} worlds"
            )
    return f"SFT+GRPO leaves open: {'; '.join(texts)}. " if texts else ""


REGIME = described(
    "regime_types",
    _stage_needs,
    lambda study: {"message": regime_message(study)},
    draw=_draw_regime,
)
