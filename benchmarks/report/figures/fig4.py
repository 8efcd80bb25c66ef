"""Figure 4: training dynamics of SGPO and SFT+GRPO on one representative model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Image
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import band_caption, plot_method
from benchmarks.store.records import Study

NAME = "fig4"
TITLE = "Figure 4: training dynamics"
USES = "metrics"
METHODS = ("grpo", "sgpo")
REPRESENTATIVE = "qwen-m"
PANELS = (
    ("entropy", "Policy entropy", "entropy, nats a token", METHODS),
    ("response_length", "Response length", "length, tokens", METHODS),
    ("reward", "Training reward", "mean reward, 0 to 1", METHODS),
    ("alpha_mean", "Weight of the distillation term", "mean α, 0 to 0.8", ("sgpo",)),
)


def model_of(study: Study) -> str | None:
    """Qwen-M where it is in the study, else the largest model on which both methods are planned."""
    planned = [
        model
        for model in study.models
        if all(study.cells_of(model.key, method) for method in METHODS)
    ]
    if any(model.key == REPRESENTATIVE for model in planned):
        return REPRESENTATIVE
    return max(planned, key=lambda model: model.parameters or 0).key if planned else None


def needs(study: Study) -> list[tuple[str, str]]:
    model = model_of(study)
    return [(model, method) for method in METHODS] if model else []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/fig4.{png,pdf}: entropy, response length, reward, mean alpha against step."""
    figure, axes = style.new_figure(2, 2, width=7.2, height=5.0)
    model = model_of(study)
    for axis, (metric, title, unit, methods) in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.set_ylabel(unit)
        if model is None:
            style.not_run_note(axis, "not run")
            continue
        for method in methods:
            plot_method(axis, study, model, method, metric)
        axis.legend()
        axis.margins(x=0.01)
        if metric in ("reward", "alpha_mean"):
            axis.set_ylim(0.0, 1.0 if metric == "reward" else 0.85)
        elif metric == "entropy":
            axis.set_ylim(bottom=0.0)
    return style.save(figure, out_dir / "figures" / NAME)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Entropy, response length, training reward and mean alpha against training step, "
            "SGPO and SFT+GRPO",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = model_of(study)
    if model is None:
        return f"Figure 4: not run. Made by: {study.command(NAME)}"
    return (
        f"Figure 4 ({study.profile} profile), {study.model(model).label}: SGPO against SFT+GRPO "
        f"over training. Entropy and length are of unguided samples. "
        f"{band_caption(study, model, METHODS)}"
    )
