"""The paper's claims, and some past it, as tests on our runs: effect, interval, seeds, verdict.

Each claim is a function from a study to ``Claim`` rows. An effect is oriented so that the claim
says "greater than 0". Verdicts follow ``stats.verdict``; a claim whose runs are missing has the
verdict "not run". The paper's effect stands beside ours as text and enters no computation.
"""

from __future__ import annotations

import numpy as np

from benchmarks.report import ablation_claims, beyond_claims, curve_claims, estimates
from benchmarks.report.claim import Claim, judged
from benchmarks.report.estimates import PERCENT
from benchmarks.report.figures import scaling
from benchmarks.report.tables import accuracy
from benchmarks.store import stats
from benchmarks.store.records import Run, Study


def evaluate(study: Study) -> list[Claim]:
    """All claims, those of the paper first, each group in a fixed order.

    What Table 1, Figure 4 and the scaling figure support is always asked; the rest only where the
    study plans the runs.
    """
    models = accuracy.models(study)
    found = [
        *(best_on_average(study, model) for model in models),
        gain_grows(study),
        *(alpha_falls(study, model) for model in models),
        *(entropy_above(study, model) for model in models),
        *ablation_claims.evaluate(study),
        *curve_claims.evaluate(study),
        *beyond_claims.evaluate(study),
    ]
    return sorted(found, key=lambda claim: claim.past)


def needs(study: Study) -> list[tuple[str, str]]:
    """(model, method) of every run that a claim reads."""
    modules = (accuracy.TABLE1, scaling.SCALING, ablation_claims, beyond_claims)
    return list(dict.fromkeys(need for module in modules for need in module.needs(study)))


def best_on_average(study: Study, model: str) -> Claim:
    """SGPO's average minus that of the best other row of Table 1, paired, in points.

    The best other row is chosen by its mean, which favours it: the claim must hold against a
    winner picked with hindsight. ``probability`` compares with the best other row of each draw.
    A row that diverged and has no score is named and does not compete.
    """
    others = [m for m in study.method_order if m != "sgpo" and study.cells_of(model, m)]
    gains = {m: estimates.gain(study, model, "sgpo", m) for m in others}
    absent = [m for m in others if not study.runs_of(model, m, scored=True)]
    present = {m: gain for m, gain in gains.items() if gain is not None}
    complete = bool(present) and not absent
    nearest = min(present, key=lambda m: present[m].mean) if complete else ""
    effect = present[nearest] if complete else None
    detail, probability = "", None
    if effect is not None:
        worst = np.min([gain.draws for gain in present.values()], axis=0)
        probability = float((worst > 0).mean())
        detail = (
            f"best other row: {study.method_label(nearest)}; "
            f"probability of improvement over pairs of runs "
            f"{_improvement(study, model, 'sgpo', nearest):.2f}"
        )
        unscored = [study.method_label(m) for m in others if m not in present]
        if unscored:
            detail += f"; diverged before it could be scored: {', '.join(unscored)}"
    return judged(
        key="best_on_average",
        statement="SGPO is best on average",
        subject=study.model(model).label,
        unit="points",
        effect=effect,
        paper=_paper_margins(),
        detail=detail,
        probability=probability,
    )


def gain_grows(study: Study) -> Claim:
    """SGPO's gain over base on the largest minus that on the smallest model of one family.

    The paper's claim compares Qwen2.5-7B with 1.5B. The family is the first one of the study with
    two models or more. Problems are shared by both models, and the bootstrap draws the same
    seeds for both.
    """
    family = _scaling_family(study)
    effect, detail = None, "needs base and SGPO runs of two models of one family"
    subject = "scaling"
    if family:
        small, large = (study.model(key) for key in (family[0], family[-1]))
        subject = f"{large.label} vs {small.label}"
        gains = [estimates.gain(study, m.key, "sgpo", "base") for m in (large, small)]
        if gains[0] is not None and gains[1] is not None:
            effect = gains[0] - gains[1]
            detail = (
                f"gain {gains[0].mean:.1f} on {large.label} ({large.parameters:,} weights), "
                f"{gains[1].mean:.1f} on {small.label} ({small.parameters:,} weights)"
            )
            if study.profile in scaling.MINIATURES:
                detail += "; base scores are ordered by construction, no evidence on size"
    printed = scaling.paper_points()
    paper = printed["Qwen2.5-7B-Instruct"][1] - printed["Qwen2.5-1.5B-Instruct"][1]
    return judged(
        key="gain_grows",
        statement="SGPO's gain over base grows with the base model",
        subject=subject,
        unit="points",
        effect=effect,
        paper=f"{paper:+.1f} points (7B vs 1.5B)",
        detail=detail,
    )


def alpha_falls(study: Study, model: str) -> Claim:
    """Mean alpha (Eq. 6) over the first quarter of the steps minus over the last quarter."""
    effect = estimates.run_statistic(study, model, "sgpo", _alpha_fall)
    return judged(
        key="alpha_falls",
        statement="alpha falls over training",
        subject=study.model(model).label,
        unit="alpha",
        effect=effect,
        paper="falls (Fig. 4; no number printed)",
        detail="first minus last quarter of the steps, over seeds only",
    )


def entropy_above(study: Study, model: str) -> Claim:
    """SGPO's policy entropy minus SFT+GRPO's over the second half of the steps, paired by seed."""
    seeds = estimates.common_seeds(study, model, ("sgpo", "grpo"))
    ours = estimates.run_statistic(study, model, "sgpo", _late_entropy, seeds)
    theirs = estimates.run_statistic(study, model, "grpo", _late_entropy, seeds)
    effect = None if ours is None or theirs is None else ours - theirs
    return judged(
        key="entropy_above",
        statement="policy entropy stays above SFT+GRPO's",
        subject=study.model(model).label,
        unit="nats",
        effect=effect,
        paper="above (Fig. 4; no number printed)",
        detail="second half of the steps, over seeds only",
    )


def _alpha_fall(run: Run) -> float:
    return _part(run, "alpha_mean", 0.0, 0.25) - _part(run, "alpha_mean", 0.75, 1.0)


def _late_entropy(run: Run) -> float:
    return _part(run, "entropy", 0.5, 1.0)


def _part(run: Run, metric: str, start: float, stop: float) -> float:
    """Mean of a metric over the steps between two shares of the run; NaN if not recorded."""
    values = run.metrics.get(metric, np.array([]))
    bounds = int(np.floor(start * len(values))), int(np.ceil(stop * len(values)))
    part = values[slice(*bounds)]
    part = part[np.isfinite(part)]
    return float(part.mean()) if len(part) else float("nan")


def _improvement(study: Study, model: str, method: str, other: str) -> float:
    """Probability of improvement between the per-run averages of two methods."""
    averages = [
        [
            PERCENT * np.mean([run.accuracy[b.key].mean() for b in study.benchmarks])
            for run in study.runs_of(model, m, scored=True)
        ]
        for m in (method, other)
    ]
    return stats.probability_of_improvement(np.array(averages[0]), np.array(averages[1]))


def _scaling_family(study: Study) -> list[str]:
    """Model keys of the first family with two or more scaling models, from small to large."""
    keys = scaling.models(study)
    for family in dict.fromkeys(study.model(key).family for key in keys):
        members = [key for key in keys if study.model(key).family == family]
        if len(members) > 1:
            return sorted(members, key=lambda key: study.model(key).parameters or 0)
    return []


def _paper_margins() -> str:
    """The paper's margins of SGPO over its best other row, from Table 1 as printed."""
    averages: dict[str, dict[str, float]] = {}
    for r in accuracy.paper_records("table1"):
        if r["benchmark"] == "Average":
            averages.setdefault(r["model"], {})[r["setting"]] = float(r["value"])
    margins = [
        rows["SGPO"] - max(value for setting, value in rows.items() if setting != "SGPO")
        for rows in averages.values()
    ]
    return f"{min(margins):+.1f} to {max(margins):+.1f} points on three models"
