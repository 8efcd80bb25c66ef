"""Training reward of every RL method, one panel a model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Image
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import band_caption, plot_method
from benchmarks.report.tables import table1
from benchmarks.store.records import Study

NAME = "curves"
TITLE = "Training curves"
USES = "metrics"


def needs(study: Study) -> list[tuple[str, str]]:
    return [(model, method) for model in table1.models(study) for method in study.rl_methods]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/curves.{png,pdf}."""
    models = table1.models(study)
    columns = max(len(models), 1)
    figure, axes = style.new_figure(1, columns, width=max(2.9 * columns, 4.0), height=3.0)
    for axis in axes.flat:
        axis.set_xlabel("training step")
        axis.set_ylim(0.0, 1.0)
    axes[0, 0].set_ylabel("training reward, 0 to 1")
    if not models:
        style.not_run_note(axes[0, 0], "not run")
    for axis, model in zip(axes[0], models, strict=False):
        axis.set_title(study.model(model).label)
        axis.margins(x=0.01)
        for method in study.rl_methods:
            plot_method(axis, study, model, method, "reward")
        axis.legend(loc="best", ncols=1)
    return style.save(figure, out_dir / "figures" / NAME)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Training reward against training step for every RL method, one panel a model",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    models = table1.models(study)
    if not models:
        return f"Training curves: not run. Made by: {study.command(NAME)}"
    return (
        f"Training reward ({study.profile} profile): share of correct unguided samples of a "
        f"step. {band_caption(study, models[0], study.rl_methods)}"
    )
