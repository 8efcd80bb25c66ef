"""Claims past the paper, from the experiments: the mask, delta, bad strategies, hard exploration,
equal cost and methods of the same idea.

Each is asked only where the study plans the experiment.
"""

from __future__ import annotations

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.claim import MARGIN, NOT_MEASURED, Claim, judged
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures import degraded, delta_classes, equal_cost, maps
from benchmarks.report.figures.equal_cost import last_values
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import REFERENCE
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

BASELINE = "grpo"
DELTA_THREE = "sgpo_delta3"
UNCLIPPED = "sgpo_no_clip"
SWITCHED_OFF = "claimed (App. H; no number printed)"


def needs(study: Study) -> list[tuple[str, str]]:
    """(model, method) of every run that one of these claims reads."""
    modules = (accuracy.KIN, accuracy.MASK, degraded, equal_cost)
    found = [need for module in modules for need in module.needs(study)]
    found += [(m, method) for m in delta_models(study) for method in (REFERENCE, DELTA_THREE)]
    style = experiments.STYLE_MODEL
    found += [(style, m) for m in (REFERENCE, UNCLIPPED) if study.cells_of(style, UNCLIPPED)]
    hardest = hardest_model(study)
    found += [(hardest, m) for m in experiments.MAP_METHODS] if hardest else []
    return list(dict.fromkeys(found))


def evaluate(study: Study) -> list[Claim]:
    """All of them in a fixed order; [] where the study plans none of the experiments."""
    return [
        *mask_claims(study),
        *clip_with_style(study),
        *(delta_three(study, model) for model in delta_models(study)),
        *bad_strategy_claims(study),
        *([hardest_cell(study, model)] if (model := hardest_model(study)) else []),
        *([equal_tokens(study)] if equal_cost.needs(study) else []),
        *kin_claims(study),
    ]


def mask_claims(study: Study) -> list[Claim]:
    """Direct SFT and KL with the mask on both, on neither, and what the mask does to direct SFT."""
    pairs = (
        ("same_mask", "with the mask on both, KL beats direct SFT", REFERENCE, "sgpo_nll_masked"),
        ("no_mask", "with no mask on either, KL beats direct SFT", UNCLIPPED, "sgpo_nll"),
        ("mask_costs", "the mask costs direct SFT accuracy", "sgpo_nll", "sgpo_nll_masked"),
    )
    return [
        _gain(study, model, ours, theirs, key=key, statement=statement)
        for key, statement, ours, theirs in pairs
        for model in accuracy.MASK.on(study)
    ]


def clip_with_style(study: Study) -> list[Claim]:
    """SGPO minus SGPO without KL clipping where all guided texts carry style, in points."""
    model = experiments.STYLE_MODEL
    if not study.cells_of(model, UNCLIPPED):
        return []
    statement = "KL clipping helps where every guided text opens with style"
    text = {"key": "clip_with_style", "statement": statement}
    return [_gain(study, model, REFERENCE, UNCLIPPED, **text)]


def delta_models(study: Study) -> list[str]:
    """Models on which delta=3 is planned: the variants' own first, then the experiments'."""
    own = accuracy.model_of(study)
    candidates = [own, *delta_classes.WORLDS, delta_classes.SECOND]
    planned = [m for m in candidates if m and study.cells_of(m, DELTA_THREE)]
    return list(dict.fromkeys(planned))


def delta_three(study: Study, model: str) -> Claim:
    """delta=3 minus delta=1 (the paper's), average in points."""
    return _gain(
        study, model, DELTA_THREE, REFERENCE, key="delta_three", statement="delta=3 beats delta=1"
    )


def bad_strategy_claims(study: Study) -> list[Claim]:
    """Does alpha fall, and does accuracy stay that of SFT+GRPO, when strategies are bad?"""
    if not degraded.needs(study):
        return []
    model, rows = degraded.MODEL, degraded.ROWS[1:]
    lower = [
        judged(
            key="alpha_switches_off",
            statement="alpha is lower with bad strategies",
            subject=f"{label}, {study.model(model).label}",
            unit="alpha",
            effect=_paired(study, model, REFERENCE, method, _mean_alpha),
            paper=SWITCHED_OFF,
            detail=_alpha_detail(study, model, method),
            past=True,
        )
        for method, label in rows
    ]
    harmless = [
        _gain(
            study,
            model,
            method,
            BASELINE,
            key="bad_is_harmless",
            statement=f"SGPO with bad strategies is not below SFT+GRPO (by {MARGIN:g} points or "
            "more)",
            subject=f"{label}, {study.model(model).label}",
            paper=SWITCHED_OFF,
            margin=MARGIN,
        )
        for method, label in rows
    ]
    return lower + harmless


def hardest_model(study: Study) -> str | None:
    """The base model that is hardest to explore, where the map of difficulty is planned."""
    return experiments.DIFFICULTY_MODELS[-1] if maps.DIFFICULTY.needs(study) else None


def hardest_cell(study: Study, model: str) -> Claim:
    """SGPO minus the better baseline of the map's hardest row at the study's own teacher gap."""
    cell = maps.map_cell(study, model, experiments.STUDY_GAP)
    rate = maps.pass_rate(study, model)
    subject = study.model(model).label
    if rate is not None:  # measured; the label has the rate that the world was aimed at
        subject = f"{subject.split(',')[0]} with an unguided pass rate of {rate:.3f}"
    detail = f"better baseline: {study.method_label(cell.baseline)}" if cell else ""
    names = " and ".join(study.method_label(m) for m in experiments.MAP_BASELINES)
    return judged(
        key="hardest_exploration",
        statement=f"SGPO beats {names} where exploration is hardest",
        subject=subject,
        unit="points",
        effect=cell.gain if cell else None,
        paper=NOT_MEASURED,
        detail=detail,
        past=True,
    )


def equal_tokens(study: Study) -> Claim:
    """SGPO's accuracy minus SFT+GRPO's at as many scored tokens, in points.

    SFT+GRPO's accuracy between two of its budgets is interpolated on the logarithm of the tokens,
    draw by draw; no effect where SGPO's spending lies outside its budgets.
    """
    model = equal_cost.MODEL
    seeds = estimates.common_seeds(study, model, [REFERENCE])[: experiments.SEEDS]
    ours = estimates.accuracy(study, model, REFERENCE, AVERAGE, seeds)
    spent = _scored_tokens(study, model, REFERENCE, seeds)
    points = [
        (_scored_tokens(study, model, key, seeds), score)
        for key in equal_cost.keys(study, BASELINE)
        if (score := estimates.accuracy(study, model, key, AVERAGE, seeds)) is not None
    ]
    theirs = _interpolated(points, spent) if spent else None
    effect = None if ours is None or theirs is None else ours - theirs
    return judged(
        key="equal_tokens",
        statement="SGPO beats SFT+GRPO at equal scored tokens",
        subject=study.model(model).label,
        unit="points",
        effect=effect,
        paper=NOT_MEASURED,
        detail=f"{spent / 1000:.0f} thousand tokens scored in training" if spent else "",
        past=True,
    )


def kin_claims(study: Study) -> list[Claim]:
    """SGPO against the two methods of the same idea, on every model that has them."""
    return [
        _gain(
            study,
            model,
            REFERENCE,
            other,
            key=f"beats_{other}",
            statement=f"SGPO beats {study.method_label(other)}",
        )
        for other in experiments.KIN
        for model in accuracy.KIN.on(study)
        if study.cells_of(model, other)
    ]


def _gain(study: Study, model: str, ours: str, theirs: str, **text) -> Claim:
    """Average of one method minus another's on a model, paired, in points."""
    found = {"subject": study.model(model).label, "paper": NOT_MEASURED, "unit": "points"}
    effect = estimates.gain(study, model, ours, theirs)
    return judged(effect=effect, past=True, **(found | text))


def _paired(study: Study, model: str, ours: str, theirs: str, statistic) -> Score | None:
    seeds = estimates.common_seeds(study, model, (ours, theirs))
    first, second = (
        estimates.run_statistic(study, model, m, statistic, seeds) for m in (ours, theirs)
    )
    return None if first is None or second is None else first - second


def _mean_alpha(run: Run) -> float:
    values = run.metrics.get("alpha_mean", np.array([]))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _alpha_detail(study: Study, model: str, method: str) -> str:
    score = estimates.run_statistic(study, model, method, _mean_alpha)
    return "" if score is None else f"mean alpha {score.mean:.2f} over training; over seeds only"


def _scored_tokens(study: Study, model: str, method: str, seeds: list[int]) -> float:
    """Mean over runs of the tokens scored in training; 0 where one is missing or did not say."""
    runs = estimates.select(study.runs_of(model, method, scored=True), seeds)
    values = last_values(runs, "scored_tokens")
    return float(np.mean(values)) if values and len(values) == len(runs) else 0.0


def _interpolated(points: list[tuple[float, Score]], at: float) -> Score | None:
    """The score at a cost between two known ones, linear in its logarithm; None outside them."""
    known = sorted(((c, score) for c, score in points if c > 0), key=lambda point: point[0])
    for (low, below), (high, above) in zip(known, known[1:], strict=False):
        if low <= at <= high:
            part = 0.0 if high == low else float(np.log(at / low) / np.log(high / low))
            return Score(
                mean=(1 - part) * below.mean + part * above.mean,
                draws=(1 - part) * below.draws + part * above.draws,
                num_seeds=min(below.num_seeds, above.num_seeds),
                run_ids=below.run_ids + above.run_ids,
            )
    return None
