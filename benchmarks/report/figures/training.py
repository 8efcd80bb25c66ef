"""Training curves: Figures 3, 4 and 6, and the loss of SFT."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Need, described
from benchmarks.report.figures.axes import absent, band_caption, curve, legend, new_figure, zero
from benchmarks.report.tables.accuracy import REFERENCE, TABLE2, model_of, models
from benchmarks.store.records import Study
from benchmarks.store.stats import interval_text

UNITS = {
    "entropy": ("Policy entropy", "nats a token"),
    "response_length": ("Response length", "tokens"),
    "reward": ("Training reward", "mean reward, 0 to 1"),
    "alpha_mean": ("Weight of the distillation term", "mean α, 0 to 0.8"),
}
STEP = "training step"
REPRESENTATIVE = "qwen-m"
FIXED, DIRECT = "sgpo_fixed_alpha", "sgpo_nll"
FIG4_METHODS, FIG6_METHODS = ("grpo", REFERENCE), (REFERENCE, DIRECT)
LABELS = dict(TABLE2.rows)
SFT_METHODS, HELD_OUT = ("sft", "sft_full"), "held_out_loss"


def _panel(axis: Axes, study: Study, model: str, methods: Sequence[str], metric: str) -> None:
    for method in methods:
        curve(axis, study, model, method, metric)
    title, unit = UNITS[metric]
    axis.set(title=title, xlabel=STEP, ylabel=unit)
    axis.margins(x=0.01)
    if metric != "response_length":
        axis.set_ylim(bottom=0.0)


def _on(model: str | None, methods: Sequence[str]) -> list[Need]:
    return [(model, method) for method in methods] if model else []


def representative(study: Study) -> str | None:
    """Qwen-M where it is in the study, else the largest model on which both methods are planned."""
    planned = [m for m in study.models if all(study.cells_of(m.key, k) for k in FIG4_METHODS)]
    if any(model.key == REPRESENTATIVE for model in planned):
        return REPRESENTATIVE
    return max(planned, key=lambda model: model.parameters or 0).key if planned else None


def _dynamics(study: Study) -> Figure:
    figure, axes = new_figure(2, 2, width=7.2, height=5.0, sharex=True)
    for axis, metric in zip(axes.flat, UNITS, strict=True):
        methods = FIG4_METHODS if metric != "alpha_mean" else (REFERENCE,)
        _panel(axis, study, representative(study), methods, metric)
    for axis in axes[0]:
        axis.set_xlabel("")
    legend(figure, axes.flat)
    return figure


def _ablations(study: Study) -> Figure:
    """A column an ablation against SGPO as a whole: reward above, entropy below."""
    removed, model = [m for m in LABELS if m != REFERENCE], model_of(study)
    figure, axes = new_figure(
        2, len(removed), width=1.25 * len(removed), height=4.0, sharex=True, sharey="row"
    )
    for column, method in zip(axes.T, removed, strict=True):
        for axis, metric in zip(column, ("reward", "entropy"), strict=True):
            curve(axis, study, model, REFERENCE, metric, label=LABELS[REFERENCE])
            curve(axis, study, model, method, metric, label="without the component",
                  color="#333333", linestyle="--")  # fmt: skip
            axis.set_ylim(bottom=0.0)
        column[0].set_title(textwrap.fill(LABELS[method], 15), fontsize=8)
        column[1].set_xlabel(STEP)
    axes[0, 0].set_ylabel("training reward, 0 to 1")
    axes[1, 0].set_ylabel("entropy, nats a token")
    legend(figure, axes.flat)
    return figure


def _kl_against_sft(study: Study) -> Figure:
    figure, axes = new_figure(1, 2, width=7.2, height=3.0)
    (left, right), model = axes[0], model_of(study)
    _panel(left, study, model, FIG6_METHODS, "reward")
    curve(right, study, model, DIRECT, "reward", minus=REFERENCE, label="difference")
    zero(right)
    right.set(title="Direct SFT minus SGPO, seed by seed", xlabel=STEP, ylabel="reward")
    right.margins(x=0.01)
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
    """Loss on the training problems and, where the runs have it, on the held-out ones."""
    shown = models(study)
    figure, axes = new_figure(
        1, len(shown), width=max(2.4 * len(shown), 4.0), height=2.9, sharey=True
    )
    for axis, model in zip(axes[0], shown, strict=True):
        for method in SFT_METHODS:
            label = study.method_label(method)
            curve(axis, study, model, method, "loss", label=f"{label}, training")
            runs = study.runs_of(model, method, scored=False)
            if any(HELD_OUT in run.metrics for run in runs):
                curve(axis, study, model, method, HELD_OUT, label=f"{label}, held out", window=1,
                      marker="o", markersize=4, linestyle="-")  # fmt: skip
            else:
                absent(axis, f"{label}, held out")
        axis.set(title=study.model(model).label, xlabel=STEP)
        axis.set_ylim(bottom=0.0)
    axes[0, 0].set_ylabel("loss, nats a token")
    legend(figure, axes[0])
    return figure


SFT_LOSS = described(
    "sft_loss",
    lambda study: [
        (model, method)
        for model in models(study)
        for method in SFT_METHODS
        if study.cells_of(model, method)
    ],
    lambda study: _known(models(study)[0], SFT_METHODS[:1], study),
    draw=_sft_losses,
)
