"""Claims read off training curves and samples: speed to equal reward, where the KL mass sits, and
pass@k."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.report import equal_reward, estimates, plan_shares, step_shares
from benchmarks.report.claim import MARGIN, NOT_MEASURED, TIMES, Claim, judged
from benchmarks.report.estimates import PERCENT
from benchmarks.report.figures import passk, training
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import REFERENCE
from benchmarks.store.records import Study

ANALYSES = (step_shares.ANALYSIS, plan_shares.ANALYSIS)


def evaluate(study: Study) -> list[Claim]:
    """Speed and KL mass where the study plans SGPO's variants, pass@k on every model of Table 1."""
    model = accuracy.model_of(study)
    found = []
    if model is not None:
        found = [
            _sooner(
                study, model, training.FIXED, "adaptive weighting reaches equal reward sooner",
                key="faster_adaptive", paper="1.78x, reward +11.7%",
            ),
            _sooner(
                study, model, training.DIRECT, "KL distillation reaches equal reward sooner than "
                "direct SFT", key="faster_kl", paper="2.1x, reward +18.1%",
            ),
        ]  # fmt: skip
    if step_shares.model_of(study) is not None:
        found.append(kl_on_decisions(study))
    if plan_shares.model_of(study) is not None:
        found += [right_plan(study, other) for other in ("grpo", "sgpo_reverse")]
    return found + [pass_not_below(study, m) for m in passk_models(study)]


def passk_models(study: Study) -> list[str]:
    """Models of Table 1, where some benchmark has enough samples a problem for pass@k."""
    return accuracy.models(study) if passk.ks_of(study) else []


def _sooner(study: Study, model: str, other: str, statement: str, **text: str) -> Claim:
    """How many times sooner SGPO reaches the lower of the two final rewards than its variant."""
    found = equal_reward.compare(study, model, REFERENCE, other)
    detail = "over seeds only"
    if found is not None:
        mine, theirs = found.steps
        detail = (
            f"reward {found.level:.2f} after {mine:.1f} against {theirs:.1f} steps; final reward "
            f"{found.gain_percent:+.1f}%; over seeds only"
        )
    return judged(
        statement=statement,
        subject=study.model(model).label,
        unit=TIMES,
        effect=None if found is None else found.log_factor,
        detail=detail,
        **text,
    )


def kl_on_decisions(study: Study) -> Claim:
    """Share of the KL mass on decision tokens minus their share of the tokens, in points."""
    model = step_shares.model_of(study)
    assert model is not None, "the caller asks"
    mass, tokens = (step_shares.shares(study, q, step_shares.DECISIONS) for q in ("kl", "tokens"))
    detail = ""
    if mass is not None and tokens is not None:
        detail = (
            f"{mass.mean:.0f}% of the KL mass on {tokens.mean:.0f}% of the tokens; solved problems "
            f"with 0 of 8 autonomous answers right, at the warm-up"
        )
    return judged(
        key="kl_on_decisions",
        statement="KL mass sits on strategy-critical tokens",
        subject=study.model(model).label,
        unit="points",
        effect=step_shares.excess(study),
        paper="shown on one example (Fig. 5)",
        detail=detail,
    )


def right_plan(study: Study, other: str) -> Claim:
    """Probability of the right plan after SGPO minus after another method, in points."""
    model = plan_shares.model_of(study)
    assert model is not None, "the caller asks"
    ours, theirs = (plan_shares.of_all(study, m, "right") for m in (REFERENCE, other))
    effect, detail = None, ""
    if ours is not None and theirs is not None:
        difference = ours - theirs
        effect = replace(
            difference, mean=PERCENT * difference.mean, draws=PERCENT * difference.draws
        )
        detail = f"{ours.mean:.2f} against {theirs.mean:.2f}; over seeds only"
    return judged(
        key="right_plan",
        statement="SGPO leaves more probability on the right plan",
        subject=f"than {study.method_label(other)}, {study.model(model).label}",
        unit="points",
        effect=effect,
        paper="drawn, not measured (Fig. 2)",
        detail=detail,
        past=True,
    )


def pass_not_below(study: Study, model: str) -> Claim:
    """SGPO's pass@k minus SFT+GRPO's in points at the largest k, allowed to be ``MARGIN`` below."""
    k = passk.ks_of(study)[-1]
    seeds = estimates.common_seeds(study, model, (REFERENCE, "grpo"))
    ours = passk.pass_at(study, model, REFERENCE, k, seeds)
    theirs = passk.pass_at(study, model, "grpo", k, seeds)
    effect, detail = None, ""
    if ours is not None and theirs is not None:
        effect = ours - theirs
        detail = f"pass@{k} {ours.mean:.1f}% against {theirs.mean:.1f}%"
    return judged(
        key="pass_not_below",
        statement=f"pass@{k} is not below SFT+GRPO's (by {MARGIN:g} points or more)",
        subject=study.model(model).label,
        unit="points",
        effect=effect,
        paper=NOT_MEASURED,
        detail=detail,
        past=True,
        margin=MARGIN,
    )
