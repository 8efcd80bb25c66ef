"""Training curves: Figure 4, every method on every model, Figures 3 and 6.

Figures 3 and 6 also compare two reward curves: how much sooner one reaches the other's end.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import COLOURS, INK, band_caption, curve, new_figure
from benchmarks.report.measures import EqualReward
from benchmarks.report.tables.accuracy import REFERENCE, TABLE2, model_of, models
from benchmarks.store.records import Study

UNITS = {
    "reward": ("Training reward", "mean reward, 0 to 1"),
    "entropy": ("Policy entropy", "entropy, nats a token"),
    "response_length": ("Response length", "length, tokens"),
    "alpha_mean": ("Weight of the distillation term", "mean α, 0 to 0.8"),
}


def _panel(axis: Axes, metric: str) -> None:
    title, unit = UNITS[metric]
    axis.set_title(title)
    axis.set_xlabel("training step")
    axis.set_ylabel(unit)
    axis.margins(x=0.01)


# Figure 4: one representative model ---------------------------------------------------------------

FIG4_METHODS = ("grpo", "sgpo")
REPRESENTATIVE = "qwen-m"


def representative(study: Study) -> str | None:
    """Qwen-M where it is in the study, else the largest model on which both methods are planned."""
    planned = [
        model
        for model in study.models
        if all(study.cells_of(model.key, method) for method in FIG4_METHODS)
    ]
    if any(model.key == REPRESENTATIVE for model in planned):
        return REPRESENTATIVE
    return max(planned, key=lambda model: model.parameters or 0).key if planned else None


def _fig4_needs(study: Study) -> list[Need]:
    model = representative(study)
    return [(model, method) for method in FIG4_METHODS] if model else []


def _dynamics(study: Study) -> Figure:
    figure, axes = new_figure(2, 2, width=7.2, height=5.0)
    model = representative(study)
    metrics = ("entropy", "response_length", "reward", "alpha_mean")
    for axis, metric in zip(axes.flat, metrics, strict=True):
        _panel(axis, metric)
        for method in FIG4_METHODS if metric != "alpha_mean" else (REFERENCE,):
            curve(axis, study, model, method, metric)
        axis.legend()
        if metric in ("reward", "alpha_mean"):
            axis.set_ylim(0.0, 1.0 if metric == "reward" else 0.85)
        elif metric == "entropy":
            axis.set_ylim(bottom=0.0)
    return figure


def _fig4_caption(study: Study) -> str:
    model = representative(study)
    return (
        f"Figure 4 ({study.profile} profile), {study.model(model).label}: SGPO against SFT+GRPO "
        f"over training. Entropy and length are of unguided samples. "
        f"{band_caption(study, model, FIG4_METHODS)}"
    )


FIG4 = Artefact(
    "fig4",
    "Figure 4: training dynamics",
    "metrics",
    _fig4_needs,
    _fig4_caption,
    draw=_dynamics,
    alt="Entropy, response length, training reward and mean alpha against training step, SGPO and "
    "SFT+GRPO",
)


# The reward of every method -----------------------------------------------------------------------


def _rewards(study: Study) -> Figure:
    shown = models(study)
    width = max(2.9 * len(shown), 4.0)
    figure, axes = new_figure(1, len(shown), width=width, height=3.0)
    for axis, model in zip(axes[0], shown, strict=True):
        axis.set_xlabel("training step")
        axis.set_ylim(0.0, 1.0)
        axis.set_title(study.model(model).label)
        axis.margins(x=0.01)
        for method in study.rl_methods:
            curve(axis, study, model, method, "reward")
        axis.legend(loc="best", ncols=1)
    axes[0, 0].set_ylabel("training reward, 0 to 1")
    return figure


CURVES = Artefact(
    "curves",
    "Training curves",
    "metrics",
    lambda study: [(model, method) for model in models(study) for method in study.rl_methods],
    lambda study: (
        f"Training reward ({study.profile} profile): share of correct unguided samples "
        f"of a step. {band_caption(study, models(study)[0], study.rl_methods)}"
    ),
    draw=_rewards,
    alt="Training reward against training step for every RL method, one panel a model",
)


# Two reward curves --------------------------------------------------------------------------------


def _race(axis: Axes, study: Study, model: str, first: str, second: str) -> None:
    """Both reward curves with their bands, the level of comparison and the steps to reach it."""
    _panel(axis, "reward")
    for method in (first, second):
        curve(axis, study, model, method, "reward")
    found = measures.equal_reward(study, model, first, second)
    axis.set_ylim(0.0, 1.0)
    if found is not None:
        axis.axhline(found.level, color=INK, linewidth=0.8, linestyle=":")
        for method, step in zip((first, second), found.steps, strict=True):
            look = {"color": COLOURS[method]}
            axis.plot([step, step], [0.0, found.level], linewidth=0.9, linestyle=":", **look)
            axis.plot([step], [0.0], marker="^", clip_on=False, markersize=6, zorder=5, **look)
        axis.text(
            0.02, found.level + 0.012, f"equal reward: {_factor(found)}",
            transform=axis.get_yaxis_transform(), va="bottom", fontsize=8,
        )  # fmt: skip
    axis.legend(loc="upper left")


def _factor(found: EqualReward) -> str:
    """ "1.33x [1.02, 1.46]": the factor and its 95% interval; below 1 is later."""
    interval = found.log_factor.interval
    low, high = np.exp([interval.low, interval.high])
    return f"{found.factor:.2f}x [{low:.2f}, {high:.2f}]"


def _race_sentence(study: Study, model: str, first: str, second: str) -> str:
    """What the dotted lines of :func:`_race` are."""
    found = measures.equal_reward(study, model, first, second)
    if found is None:
        return "Steps to equal reward: not run."
    names = [study.method_label(method) for method in (first, second)]
    return (
        f"Dotted: the lower of the two final rewards and the step at which each curve is there, "
        f"read off the nearest rising curve of the seeds' mean: {names[0]} after "
        f"{found.steps[0]:.1f} steps, {names[1]} after {found.steps[1]:.1f}, a factor of "
        f"{_factor(found)} (95% interval over seeds; above 1 {names[0]} is the faster)."
    )


# Figure 3: the ablations, and with and without the adaptive weight --------------------------------

FIXED = "sgpo_fixed_alpha"
LABELS = dict(TABLE2.rows) | {"grpo": "w/o strategy distillation (SFT+GRPO)"}


def _ablations(study: Study) -> Figure:
    figure, axes = new_figure(2, 2, width=8.6, height=5.8)
    model = model_of(study)
    for axis, metric in zip(axes[0], ("reward", "entropy"), strict=True):
        _panel(axis, metric)
        for method, label in LABELS.items():
            curve(axis, study, model, method, metric, label=label, shade=0.0)
        axis.set_ylim(bottom=0.0)
    _race(axes[1, 0], study, model, REFERENCE, FIXED)
    axes[1, 0].set_title("Adaptive against fixed weight")
    axes[1, 1].axis("off")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[1, 1].legend(
        handles, labels, loc="center left", title="Upper panels", alignment="left",
        handlelength=3.2,
    )  # fmt: skip
    return figure


def _fig3_caption(study: Study) -> str:
    model = model_of(study)
    return (
        f"Figure 3 ({study.profile} profile), {study.model(model).label}: SGPO and the ablations "
        f"of Table 2 over training; reward and entropy are of unguided samples. Upper panels: "
        f"means only, for legibility. {_race_sentence(study, model, REFERENCE, FIXED)} "
        f"{band_caption(study, model, LABELS)}"
    )


FIG3 = Artefact(
    "fig3",
    "Figure 3: training dynamics of the ablations",
    "metrics",
    TABLE2.needs,
    _fig3_caption,
    draw=_ablations,
    alt="Training reward and policy entropy of SGPO and its ablations, and the reward with "
    "adaptive and with fixed weight, against training step",
    extended=True,
)


# Figure 6: KL distillation and direct SFT on the same completions ---------------------------------

DIRECT = "sgpo_nll"
FIG6_METHODS = (REFERENCE, DIRECT)


def _fig6_needs(study: Study) -> list[Need]:
    model = model_of(study)
    return [(model, method) for method in FIG6_METHODS] if model else []


def _kl_against_sft(study: Study) -> Figure:
    """Training reward and, past the paper's figure, policy entropy."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.2)
    model = model_of(study)
    _race(axes[0, 0], study, model, *FIG6_METHODS)
    _panel(axes[0, 1], "entropy")
    for method in FIG6_METHODS:
        curve(axes[0, 1], study, model, method, "entropy")
    axes[0, 1].set_ylim(bottom=0.0)
    return figure


def _fig6_caption(study: Study) -> str:
    model = model_of(study)
    return (
        f"Figure 6 ({study.profile} profile), {study.model(model).label}: SGPO, whose distillation "
        f"term is a KL, against the negative log-likelihood of the same guided completions. Both "
        f"are of unguided samples. {_race_sentence(study, model, *FIG6_METHODS)} "
        f"{band_caption(study, model, FIG6_METHODS)}"
    )


FIG6 = Artefact(
    "fig6",
    "Figure 6: KL distillation against direct SFT",
    "metrics",
    _fig6_needs,
    _fig6_caption,
    draw=_kl_against_sft,
    alt="Training reward and policy entropy of SGPO with KL distillation and with direct SFT, "
    "against training step",
    extended=True,
)
