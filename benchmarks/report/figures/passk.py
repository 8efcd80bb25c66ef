"""pass@k and maj@k: what more samples are worth to each method, and whether training narrows it."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import absent, legend, look, new_figure, points, zero
from benchmarks.report.tables.accuracy import models
from benchmarks.store.records import NOT_RUN, Study

METHODS = ("base", "grpo", "hpt", "luffy", "sgpo")
PAIR = ("sgpo", "grpo")
KINDS = ("pass@k", "maj@k")


def needs(study: Study) -> list[Need]:
    """None where no benchmark has enough samples a problem."""
    planned = [(model, method) for model in models(study) for method in METHODS]
    return [need for need in planned if measures.ks_of(study) and study.cells_of(*need)]


def figure(study: Study) -> Figure:
    """pass@k, maj@k and SGPO's paired difference in pass@k to SFT+GRPO, one column a model."""
    shown, ks = models(study), measures.ks_of(study)
    drawn, axes = new_figure(
        3, len(shown), width=max(2.4 * len(shown), 4.0), height=6.0, sharex=True, sharey="row"
    )
    for column, model in zip(axes.T, shown, strict=True):
        curves = {}
        for axis, kind in zip(column, KINDS, strict=False):
            for method in METHODS:
                if not study.cells_of(model, method):
                    continue
                label = study.method_label(method)
                scores = measures.sample_curve(study, model, method, kind)
                curves[kind, method] = scores
                means = [s.mean for s in scores or []]
                axis.plot(ks[: len(means)], means, label=label, markersize=4,
                          **look(method, marker=True))  # fmt: skip
                if scores is None:
                    missing = not study.runs_of(model, method, scored=True)
                    absent(axis, label, NOT_RUN if missing else "not stored")
        ours, theirs = (curves.get(("pass@k", method)) for method in PAIR)
        if ours and theirs:
            gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
            points(column[2], ks, gaps, **look("sgpo", marker=True))
        zero(column[2])
        column[0].set_title(study.model(model).label)
        column[2].set_xscale("log", base=2)
        column[2].set_xticks(ks, [str(k) for k in ks])
        column[2].set_xlabel("samples k (log scale)")
    names = ("pass@k, %", "maj@k, %", "pass@k, SGPO\nminus SFT+GRPO, points")
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    legend(drawn, axes[0], columns=5)
    return drawn


def caption(study: Study) -> str:
    sets = " and ".join(
        f"{b.label} (n={b.num_problems}, {b.k} samples)" for b in measures.benchmarks_of(study)
    )
    return (
        f"What more samples are worth ({study.profile} profile). pass@k: unbiased, the chance "
        f"that one of k samples is correct. maj@k: the chance that the commonest "
        f"answer of k samples is correct (ties count by share; mean over {measures.NUM_ORDERS} "
        f"orders of the stored samples, so k = {measures.ks_of(study)[-1]} has one value). Mean of "
        f"{sets}, the benchmarks with that many samples. Below: SGPO's pass@k minus SFT+GRPO's, "
        f"paired over seeds and problems, 95% intervals. "
        f'"not stored": a run was evaluated without keeping its answers.'
    )


PASSK = Artefact(
    "passk",
    "Past the paper: pass@k and maj@k",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="pass@k and maj@k of each method against the number of samples k, and SGPO's pass@k minus "
    "SFT+GRPO's, by model",
)
