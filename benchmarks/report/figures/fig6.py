"""Figure 6: reward and entropy with KL distillation and with direct SFT on the same completions."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Image
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import band_caption, plot_method
from benchmarks.report.figures.reward_race import draw_race, race_sentence
from benchmarks.report.tables.ablations import REFERENCE, model_of
from benchmarks.store.records import Study

NAME = "fig6"
TITLE = "Figure 6: KL distillation against direct SFT"
USES = "metrics"
DIRECT = "sgpo_nll"
METHODS = (REFERENCE, DIRECT)


def needs(study: Study) -> list[tuple[str, str]]:
    """SGPO and its direct-SFT variant; none where the study plans no variant at all."""
    model = model_of(study)
    return [(model, method) for method in METHODS] if model else []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/fig6.{png,pdf}: training reward and, past the paper's, policy entropy."""
    figure, axes = style.new_figure(1, 2, width=7.6, height=3.2)
    model = model_of(study)
    draw_race(axes[0, 0], study, model, REFERENCE, DIRECT)
    axes[0, 0].set_title("Training reward")
    axis = axes[0, 1]
    axis.set_title("Policy entropy")
    axis.set_xlabel("training step")
    axis.set_ylabel("entropy, nats a token")
    if model is None:
        style.not_run_note(axis, "not run")
    else:
        for method in METHODS:
            plot_method(axis, study, model, method, "entropy")
        axis.set_ylim(bottom=0.0)
        axis.margins(x=0.01)
    return style.save(figure, out_dir / "figures" / NAME)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Training reward and policy entropy of SGPO with KL distillation and with direct "
            "SFT, against training step",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = model_of(study)
    if model is None:
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    return (
        f"Figure 6 ({study.profile} profile), {study.model(model).label}: SGPO, whose distillation "
        f"term is a KL, against the negative log-likelihood of the same guided completions. Both "
        f"are of unguided samples. {race_sentence(study, model, REFERENCE, DIRECT)} "
        f"{band_caption(study, model, METHODS)}"
    )
