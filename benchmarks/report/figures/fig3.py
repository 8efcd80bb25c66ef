"""Figure 3: training dynamics of SGPO's ablations, and with and without the adaptive weight."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Image
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import band_caption, plot_method
from benchmarks.report.figures.reward_race import draw_race, race_sentence
from benchmarks.report.tables.ablations import REFERENCE, TABLE2, model_of
from benchmarks.store.records import Study

NAME = "fig3"
TITLE = "Figure 3: training dynamics of the ablations"
USES = "metrics"
LABELS = dict(TABLE2.ROWS) | {"grpo": "w/o strategy distillation (SFT+GRPO)"}
METHODS = tuple(LABELS)
FIXED = "sgpo_fixed_alpha"
PANELS = (
    ("reward", "Training reward", "mean reward, 0 to 1"),
    ("entropy", "Policy entropy", "entropy, nats a token"),
)


def needs(study: Study) -> list[tuple[str, str]]:
    """The rows of Table 2; none where the study plans no variant at all."""
    model = model_of(study)
    return [(model, method) for method in METHODS] if model else []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/fig3.{png,pdf}: reward and entropy of the ablations, reward with and without
    the adaptive weight."""
    figure, axes = style.new_figure(2, 2, width=8.6, height=5.8)
    model = model_of(study)
    for axis, (metric, title, unit) in zip(axes[0], PANELS, strict=True):
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.set_ylabel(unit)
        axis.margins(x=0.01)
        if model is None:
            style.not_run_note(axis, "not run")
            continue
        for method in METHODS:
            label = LABELS[method]
            plot_method(axis, study, model, method, metric, label=label, band_alpha=0.0)
        axis.set_ylim(bottom=0.0)
    draw_race(axes[1, 0], study, model, REFERENCE, FIXED)
    axes[1, 0].set_title("Adaptive against fixed weight")
    axes[1, 1].axis("off")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        axes[1, 1].legend(
            handles, labels, loc="center left", title="Upper panels", alignment="left",
            handlelength=3.2,
        )  # fmt: skip
    return style.save(figure, out_dir / "figures" / NAME)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Training reward and policy entropy of SGPO and its ablations, and the reward with "
            "adaptive and with fixed weight, against training step",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = model_of(study)
    if model is None:
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    return (
        f"Figure 3 ({study.profile} profile), {study.model(model).label}: SGPO and the ablations "
        f"of Table 2 over training; reward and entropy are of unguided samples. Upper panels: "
        f"means only, for legibility. {race_sentence(study, model, REFERENCE, FIXED)} "
        f"{band_caption(study, model, METHODS)}"
    )
