"""Training curves: Figures 3, 4 and 6, and the loss of SFT."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Need, described
from benchmarks.report.figures.axes import (
    absent,
    band_caption,
    curve,
    legend,
    look,
    new_figure,
    zero,
)
from benchmarks.report.tables.accuracy import REFERENCE, TABLE2, model_of, models
from benchmarks.store.records import Study
from benchmarks.store.stats import interval_text

UNITS = {
    "entropy": ("Policy entropy", "nats a token"),
    "response_length": ("Response length", "tokens"),
    "reward": ("Training reward", "reward, 0 to 1"),
    "alpha_mean": ("Weight of the distillation term", "mean α, 0 to 0.8"),
}
STEP = "training step"
REPRESENTATIVE = "qwen-m"
FIXED, DIRECT = "sgpo_fixed_alpha", "sgpo_nll"
FIG4_METHODS, FIG6_METHODS = ("grpo", REFERENCE), (REFERENCE, DIRECT)
LABELS = dict(TABLE2.rows)
SFT_METHODS, HELD_OUT = ("sft", "sft_full"), "held_out_loss"


def _panel(
    axis: Axes, study: Study, model: str, methods: Sequence[str], metric: str, **how: Any
) -> None:
    for method in methods:
        curve(axis, study, model, method, metric, **how)
    title, unit = UNITS[metric]
    axis.set(title=title, xlabel=STEP, ylabel=unit)
    axis.margins(x=0.01)
    if metric in ("reward", "alpha_mean"):
        axis.set_ylim(bottom=0.0)


def _paired(
    axis: Axes, study: Study, model: str, methods: tuple[str, str], metric: str, **changes: Any
) -> None:
    """The first method's curve minus the second's, seed by seed, and the line of no difference."""
    curve(axis, study, model, methods[0], metric, minus=methods[1], label="difference", **changes)
    zero(axis)
    axis.margins(x=0.01)


def _on(model: str | None, methods: Sequence[str]) -> list[Need]:
    return [(model, method) for method in methods] if model else []


def representative(study: Study) -> str | None:
    """Qwen-M where it is in the study, else the largest model on which both methods are planned."""
    planned = [m for m in study.models if all(study.cells_of(m.key, k) for k in FIG4_METHODS)]
    if any(model.key == REPRESENTATIVE for model in planned):
        return REPRESENTATIVE
    return max(planned, key=lambda model: model.parameters or 0).key if planned else None


def _dynamics(study: Study) -> Figure:
    """A row a metric: both methods and, where both were run, their paired difference."""
    model = representative(study)
    ran = [m for m in FIG4_METHODS if study.runs_of(model, m, scored=False)]
    metrics = [metric for metric in UNITS if metric != "alpha_mean" or REFERENCE in ran]
    paired = len(ran) == 2
    figure, axes = new_figure(
        len(metrics), 2 if paired else 1, height=0.7 + 1.6 * len(metrics), sharex=True
    )
    for row, metric in zip(axes, metrics, strict=True):
        methods = (REFERENCE,) if metric == "alpha_mean" else ran or FIG4_METHODS
        _panel(row[0], study, model, methods, metric)
        row[0].set_xlabel(STEP if metric == metrics[-1] else "")
        if paired and len(methods) == 2:
            _paired(row[1], study, model, (REFERENCE, FIG4_METHODS[0]), metric, **look(REFERENCE))
    if not paired:
        legend(figure, axes[:, 0])
        return figure
    axes[0, 1].set_title("SGPO minus SFT+GRPO, paired")
    axes[-2, 1].set_xlabel(STEP)
    axes[-2, 1].tick_params(labelbottom=True)
    axes[-1, 1].axis("off")  # alpha is SGPO's alone
    axes[-1, 1].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    return figure


def _ablations(study: Study) -> Figure:
    """A column an ablation: reward and entropy, and below each SGPO minus it, paired."""
    removed, model = [m for m in LABELS if m != REFERENCE], model_of(study)
    figure, axes = new_figure(4, len(removed), height=6.4, sharex=True, sharey="row")
    for column, method in zip(axes.T, removed, strict=True):
        for pair, metric in ((column[:2], "reward"), (column[2:], "entropy")):
            curve(pair[0], study, model, REFERENCE, metric, label=LABELS[REFERENCE], band=False)
            curve(pair[0], study, model, method, metric, label="without the component",
                  color="#333333", linestyle="--", band=False)  # fmt: skip
            _paired(pair[1], study, model, (REFERENCE, method), metric, **look(REFERENCE))
        column[0].set_title(textwrap.fill(LABELS[method], 12), fontsize="medium")
        column[-1].set_xlabel("step")
    for axis, name in zip(axes[:, 0], ("reward", "SGPO minus\nit: reward", "entropy, nats",
                                       "SGPO minus\nit: entropy"), strict=True):  # fmt: skip
        axis.set_ylabel(name)
    figure.align_ylabels(axes[:, 0])
    legend(figure, axes.flat[:1])
    return figure


def _kl_against_sft(study: Study) -> Figure:
    figure, axes = new_figure(1, 2, height=2.9)
    (left, right), model = axes[0], model_of(study)
    _panel(left, study, model, FIG6_METHODS, "reward", band=False)
    _paired(right, study, model, (DIRECT, REFERENCE), "reward", **look(DIRECT))
    right.set(title="Direct SFT minus SGPO, paired", xlabel=STEP, ylabel="reward")
    legend(figure, [left])
    return figure


def _race_sentence(study: Study, first: str, second: str) -> str:
    """How much sooner the first is where both arrive."""
    found = measures.equal_reward(study, model_of(study), first, second)
    if found is None:
        return "Steps to equal reward: not run."
    names = [study.method_label(method) for method in (first, second)]
    interval = found.log_factor.interval
    shown = interval_text(interval.low, interval.high, lambda value: f"{np.exp(value):.2f}")
    over = "95% interval over seeds; " if shown else ""
    return (
        f"The lower of the two final rewards, {found.level:.2f}, is reached by {names[0]} after "
        f"{found.steps[0]:.1f} steps and by {names[1]} after {found.steps[1]:.1f}: a factor of "
        f"{found.factor:.2f}x{shown} ({over}above 1 {names[0]} is the faster)."
    )


def _known(model: str, methods: Sequence[str], study: Study, **more: str) -> dict[str, str]:
    band = band_caption(study, model, methods)
    return {"model": study.model(model).label, "band": band, **more}


FIG4 = described(
    "fig4",
    lambda study: _on(representative(study), FIG4_METHODS),
    lambda study: _known(representative(study), FIG4_METHODS, study),
    draw=_dynamics,
)
FIG3 = described(
    "fig3",
    TABLE2.needs,
    lambda study: _known(
        model_of(study), LABELS, study, race=_race_sentence(study, REFERENCE, FIXED)
    ),
    draw=_ablations,
)
FIG6 = described(
    "fig6",
    lambda study: _on(model_of(study), FIG6_METHODS),
    lambda study: _known(
        model_of(study), FIG6_METHODS, study, race=_race_sentence(study, *FIG6_METHODS)
    ),
    draw=_kl_against_sft,
)


def _sft_losses(study: Study) -> Figure:
    """Loss on the training problems and, where the runs have it, on the held-out ones; a panel a
    model of which there is a run."""
    planned = dict.fromkeys(_sft_needs(study))
    ran = dict.fromkeys(m for m, s in planned if study.runs_of(m, s, scored=False))
    shown = [*ran] or [model for model, _ in planned][:1]
    figure, axes = new_figure(1, len(shown), height=3.2, sharey=True)
    for axis, model in zip(axes[0], shown, strict=True):
        for method in (method for of, method in planned if of == model):
            label = study.method_label(method)
            curve(axis, study, model, method, "loss", label=f"{label}, training")
            runs = study.runs_of(model, method, scored=False)
            if any(HELD_OUT in run.metrics for run in runs):
                curve(axis, study, model, method, HELD_OUT, label=f"{label}, held out", window=1,
                      marker="o", markersize=4, linestyle="-")  # fmt: skip
            elif runs:
                absent(axis, f"{label}, held out")
        axis.set(title=study.model(model).label, xlabel=STEP)
    # After all panels: a limit that is set earlier would hold for those still to come.
    axes[0, 0].set(ylabel="loss, nats a token", ylim=(0.0, None))
    legend(figure, axes[0], columns=2)
    return figure


def _sft_needs(study: Study) -> list[Need]:
    every = [(model, method) for model in models(study) for method in SFT_METHODS]
    return [need for need in every if study.cells_of(*need)]


SFT_LOSS = described(
    "sft_loss",
    _sft_needs,
    lambda study: _known(models(study)[0], SFT_METHODS[:1], study),
    draw=_sft_losses,
)
