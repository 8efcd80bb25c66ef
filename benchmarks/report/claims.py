"""The claims: what the paper says, and some questions past it, as tests on our runs.

``CLAIMS`` is the one place to add a claim: a statement, where the paper makes it, how it is
measured, on which models it is asked and the effect. Which runs it needs follows from the effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.report import effects, estimates, measures
from benchmarks.report.effects import ROW, TIMES, Effect, Need, Subject, gain
from benchmarks.report.estimates import Score
from benchmarks.report.figures import gains
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import KIN, MASK, TABLE2, TABLE3, TABLE6, TEACHER
from benchmarks.store import experiments, stats
from benchmarks.store.records import NOT_RUN, Study
from benchmarks.store.stats import BUILT_IN, EQUIVALENT, FAILS, HOLDS, TOO_LITTLE

PAST = "past the paper"
NOT_MEASURED = "not measured"
# Effects that are as good as none, by unit: half of the smallest effects that the paper prints
# (+1.1 points, 1.78x has no smaller one), and what a curve's line is wide.
MARGINS = {"points": 1.0, "alpha": 0.02, "nats": 0.01, TIMES: math.log(1.1)}
PICKED = "So p of a negative effect is multiplied by the number of rows picked from (Bonferroni)."
ONE_RUN = "one run"  # a real model with one seed: an effect on these problems, no verdict


@dataclass(frozen=True)
class Claim:
    """One statement that runs can support or not.

    statement: in words; a function where it names what the study has.
    how: what the effect is, for a reader who has only the paper.
    on: the models, or subjects, that it is asked on; [] where the study does not plan it.
    effect: oriented so that the claim says it is above 0.
    where: the place in the paper, or that it is ``PAST`` it.
    paper: the paper's own effect as text, which enters no computation.
    apart: keys of claims past the paper that take this one apart.
    built_in: why the effect follows from a formula; such a claim is not tested.
    """

    key: str
    statement: str | Callable[[Study], str]
    how: str
    on: Callable[[Study], list[str] | list[Subject]]
    effect: Effect
    where: str = PAST
    paper: str | Callable[[Subject], str] = NOT_MEASURED
    apart: tuple[str, ...] = ()
    built_in: str = ""

    def subjects(self, study: Study) -> list[Subject]:
        asked = self.on(study)
        return [Subject(a, study.model(a).label) if isinstance(a, str) else a for a in asked]


@dataclass(frozen=True)
class Verdict:
    """A claim tested on one subject. ``effect`` is None where runs are missing; one in ``TIMES`` is
    the logarithm of a factor. ``p``: two-sided, of no effect; ``corrected``: after Holm,
    for the paper's claims."""

    claim: Claim
    statement: str
    subject: str
    effect: Score | None
    verdict: str
    paper: str
    detail: str = ""
    p: float | None = None
    corrected: float | None = None

    @property
    def key(self) -> str:
        return self.claim.key

    @property
    def past(self) -> bool:
        return self.claim.where.startswith(PAST)

    @property
    def unit(self) -> str:
        return self.claim.effect.unit

    @property
    def margin(self) -> float:
        return MARGINS[self.unit]

    def text(self) -> str:
        """ "+3.1 points [1.0, 5.2]", "1.33x [1.02, 1.46]", "+3.1 points" or "not run"."""
        if self.effect is None:
            return NOT_RUN
        e = self.effect.interval
        mean, interval = self.number(e.mean), stats.interval_text(e.low, e.high, self.number)
        if self.unit == TIMES:
            return f"{mean}x{interval}"
        sign = "+" if not mean.startswith("-") else ""
        return f"{sign}{mean} {self.unit}{interval}"

    def number(self, value: float) -> str:
        """``value`` in the claim's unit: a factor for a logarithm; -0.0 is 0.0."""
        if self.unit == TIMES:
            return f"{math.exp(value):.2f}"
        digits = 1 if self.unit == "points" else 3
        return f"{round(value, digits) + 0.0:.{digits}f}"


def units_for_a_verdict(study: Study) -> int:
    """Below so many seeds or worlds nothing is decided."""
    return 5 if study.miniature else 3


@estimates.once
def evaluate(study: Study) -> list[Verdict]:
    """Every claim that the study plans the runs of, those of the paper first, in a fixed order;
    the paper's with Holm's correction for their number."""
    found = [verdict for claim in CLAIMS for verdict in judge(claim, study)]
    found.sort(key=lambda verdict: verdict.past)
    family = [i for i, v in enumerate(found) if v.p is not None and not v.past]
    corrected = stats.holm([found[i].p for i in family])
    for i, p in zip(family, corrected, strict=True):
        words = decision(found[i].effect, found[i].margin, p)
        found[i] = replace(found[i], corrected=p, verdict=words)
    return found


def judge(claim: Claim, study: Study) -> list[Verdict]:
    """One verdict a subject that the claim is asked on; "not run" where runs are missing."""
    return [_verdict(claim, study, subject) for subject in claim.subjects(study)]


def _verdict(claim: Claim, study: Study, subject: Subject) -> Verdict:
    found = claim.effect.measure(study, subject)
    effect, words, p, sign = found.effect, NOT_RUN, None, ""
    if effect is not None and claim.built_in:
        words, sign = BUILT_IN, _sign(claim, effect)
    elif effect is not None:
        p = _p(found) if effect.num_seeds >= units_for_a_verdict(study) else None
        words = decision(effect, MARGINS[claim.effect.unit], p)
        words = ONE_RUN if effect.num_seeds == 1 and not study.miniature else words
    return Verdict(
        claim=claim,
        statement=claim.statement if isinstance(claim.statement, str) else claim.statement(study),
        subject=subject.text,
        effect=effect,
        verdict=words,
        paper=claim.paper if isinstance(claim.paper, str) else claim.paper(subject),
        detail="; ".join(filter(None, (claim.built_in, sign, found.detail))),
        p=p,
    )


def _p(found: effects.Found) -> float:
    """Two-sided. The lowest of several effects is negative by chance alone, so against the claim
    its p is multiplied by their number (Bonferroni); for the claim the pick is a handicap."""
    p = found.effect.of.p_zero()
    return p if found.effect.mean > 0 else min(1.0, p * found.picked_from)


def _sign(claim: Claim, effect: Score) -> str:
    """On which side of no effect one lies that is not tested."""
    none = 1 if claim.effect.unit == TIMES else 0
    text = f"the effect is {'above' if effect.mean > 0 else 'not above'} {none}"
    if effect.interval.low <= 0 <= effect.interval.high:
        return f"{text}, its interval holds {none}"
    return text


def decision(effect: Score, margin: float, p: float | None) -> str:
    """The verdict at ``p``; None where there are too few units. Equivalence goes first: an effect
    that is as good as none neither holds nor fails, however surely it is not 0."""
    if p is None:
        return TOO_LITTLE
    if stats.equivalent(effect.of, margin):
        return EQUIVALENT
    if p < 1 - stats.LEVEL:
        return HOLDS if effect.mean > 0 else FAILS
    return TOO_LITTLE


def needs(study: Study) -> list[Need]:
    """(model, method) of every run that a claim reads."""
    asked = ((claim.effect, subject) for claim in CLAIMS for subject in claim.subjects(study))
    return list(dict.fromkeys(n for effect, on in asked for n in effect.reads(study, on)))


def analyses() -> tuple[str, ...]:
    """Keys of the analyses that a claim is read off."""
    return tuple(dict.fromkeys(c.effect.analysis for c in CLAIMS if c.effect.analysis))


# What a claim is asked on -------------------------------------------------------------------------


COMPARED = accuracy.models  # models of Table 1
VARIANT_MODEL = TABLE2.on  # the one that SGPO's variants run on


def _where_planned(
    method: str, models: Callable[[Study], list[str]]
) -> Callable[[Study], list[str]]:
    return lambda study: [m for m in models(study) if study.cells_of(m, method)]


def _ablations(study: Study) -> list[Subject]:
    """Every row of Table 2 but SGPO's own."""
    return [
        Subject(key, f"{label}, {study.model(key).label}", method)
        for key in TABLE2.on(study)
        for method, label in TABLE2.rows
        if method != "sgpo"
    ]


def _family(study: Study) -> list[Subject]:
    family = effects.scaling_family(study)
    if not family:
        return [Subject("", "scaling")]
    small, large = (study.model(key).label for key in (family[0], family[-1]))
    return [Subject(family[-1], f"{large} vs {small}")]


def _right_plan(study: Study) -> list[Subject]:
    model = measures.model_of(study, measures.PLANS)
    return [
        Subject(model, f"than {study.method_label(other)}, {study.model(model).label}", other)
        for other in ("grpo", "sgpo_reverse")
        if model is not None
    ]


def _on_steps(study: Study) -> list[str]:
    model = measures.model_of(study, measures.STEPS)
    return [] if model is None else [model]


def _delta_models(study: Study) -> list[str]:
    """The variants' own model first, then the experiments'."""
    return list(dict.fromkeys([*VARIANT_MODEL(study), experiments.SECOND_MODEL]))


# The paper's numbers ------------------------------------------------------------------------------


def _averages(table: str, model: str | None = None) -> dict[str, float]:
    """Row label -> average as printed."""
    return {
        r["setting"]: float(r["value"])
        for r in accuracy.paper_records(table)
        if r["benchmark"] == "Average" and model in (None, r["model"])
    }


def _printed_margins(subject: Subject) -> str:
    """The paper's margins of SGPO over its best other row."""
    margins = []
    for model in dict.fromkeys(r["model"] for r in accuracy.paper_records("table1")):
        rows = _averages("table1", model)
        margins.append(rows.pop("SGPO") - max(rows.values()))
    return f"{min(margins):+.1f} to {max(margins):+.1f} points on three models"


def _printed_sizes(subject: Subject) -> str:
    large, small = (_averages("table1", f"Qwen2.5-{size}-Instruct") for size in ("7B", "1.5B"))
    difference = (large["SGPO"] - large["Base"]) - (small["SGPO"] - small["Base"])
    return f"{difference:+.1f} points (7B vs 1.5B)"


def _printed_loss(table: accuracy.Comparison, method: str = ROW) -> Callable[[Subject], str]:
    """What a row of one of the paper's tables loses against SGPO."""

    def text(subject: Subject) -> str:
        averages = _averages(table.name)
        (first, *_) = averages.values()  # SGPO's own row comes first in each of these tables
        return f"{first - averages[dict(table.rows)[method or subject.row]]:+.1f} points"

    return text


def _printed_largest_loss(subject: Subject) -> str:
    averages, labels = _averages("table2"), dict(TABLE2.rows)
    lowest = averages.pop(labels[effects.PROXIMAL])
    return f"{min(list(averages.values())[1:]) - lowest:+.1f} points"


# The claims ---------------------------------------------------------------------------------------


def _beats(other: str) -> Claim:
    return Claim(
        f"beats_{other}",
        lambda study: f"SGPO beats {study.method_label(other)}",
        "Average accuracy of SGPO minus that of the other method, each with the learning rate "
        "chosen for it from the same trials.",
        on=_where_planned(other, KIN.on),
        effect=gain("sgpo", other),
    )


CLAIMS = (
    Claim(
        "best_on_average",
        "SGPO is best on average",
        "Average accuracy of SGPO minus that of the best other row. The other row is picked by its "
        f"mean with hindsight, which works against SGPO. {PICKED}",
        on=COMPARED,
        effect=effects.best_other_row,
        where="Table 1",
        paper=_printed_margins,
        apart=("equal_tokens", "delta_three"),
    ),
    Claim(
        "gain_grows",
        "SGPO's gain over base grows with the base model",
        "SGPO's gain over the base model on the larger model of a family minus that on the smaller "
        "one.",
        on=_family,
        effect=effects.gain_of_sizes,
        where="Table 1",
        paper=_printed_sizes,
    ),
    Claim(
        "alpha_falls",
        "alpha falls over training",
        "Mean alpha (Eq. 6) in the first quarter of the steps minus in the last quarter.",
        on=COMPARED,
        effect=effects.quarters("alpha_mean", "alpha", -1.0),
        where="Fig. 4",
        paper="falls (Fig. 4; no number printed)",
        built_in="alpha is a falling function of the pass rate (Eq. 6), which rises",
    ),
    Claim(
        "entropy_above",
        "policy entropy stays above SFT+GRPO's",
        "Policy entropy of SGPO minus that of SFT+GRPO over the second half of the steps.",
        on=COMPARED,
        effect=effects.late_entropy,
        where="Fig. 4",
        paper="above (Fig. 4; no number printed)",
    ),
    Claim(
        "ablation_hurts",
        "removing a component hurts",
        "Average accuracy of SGPO minus that of SGPO without the component.",
        on=_ablations,
        effect=gain("sgpo", ROW),
        where="Table 2",
        paper=_printed_loss(TABLE2),
        apart=("delta_three",),
    ),
    Claim(
        "proximal_hurts_most",
        "removing the proximal constraints hurts most",
        "What removing both proximal constraints costs minus the largest cost of any other "
        "removal. The other one is picked by its mean with hindsight. " + PICKED,
        on=VARIANT_MODEL,
        effect=effects.largest_loss,
        where="Table 2",
        paper=_printed_largest_loss,
        apart=("delta_three",),
    ),
    Claim(
        "kl_beats_sft",
        "KL distillation beats direct SFT on the same completions",
        "Average accuracy of SGPO minus that with the negative log-likelihood of the same guided "
        "completion in place of the masked KL.",
        on=VARIANT_MODEL,
        effect=gain("sgpo", "sgpo_nll"),
        where="Table 3",
        paper=_printed_loss(TABLE3, "sgpo_nll"),
        apart=("same_mask", "no_mask", "mask_costs"),
    ),
    Claim(
        "forward_beats_reverse",
        "forward KL beats reverse KL",
        "Average accuracy of SGPO minus that with the reverse KL.",
        on=VARIANT_MODEL,
        effect=gain("sgpo", "sgpo_reverse"),
        where="Table 6",
        paper=_printed_loss(TABLE6, "sgpo_reverse"),
    ),
    Claim(
        "faster_adaptive",
        "adaptive weighting reaches equal reward sooner",
        "How many times fewer steps SGPO takes than fixed alpha=1 to the lower of their two final "
        "training rewards; below 1 it takes more.",
        on=VARIANT_MODEL,
        effect=effects.sooner("sgpo_fixed_alpha"),
        where="Fig. 3",
        paper="1.78x, reward +11.7%",
    ),
    Claim(
        "faster_kl",
        "KL distillation reaches equal reward sooner than direct SFT",
        "How many times fewer steps SGPO takes than direct SFT to the lower of their two final "
        "training rewards; below 1 it takes more.",
        on=VARIANT_MODEL,
        effect=effects.sooner("sgpo_nll"),
        where="Fig. 6",
        paper="2.1x, reward +18.1%",
        apart=("same_mask", "no_mask", "mask_costs"),
    ),
    Claim(
        "kl_on_decisions",
        "KL mass sits on strategy-critical tokens",
        "Share of the KL that lies on decision tokens (the choices of the plan, and the words that "
        "decide between going on and guessing) minus their share of all tokens.",
        on=_on_steps,
        effect=effects.mass_on_decisions,
        where="Fig. 5",
        paper="shown on one example (Fig. 5)",
    ),
    Claim(
        "right_plan",
        "SGPO leaves more probability on the right plan",
        "Probability of the right plan under the unguided prompt, averaged over the types "
        "on held-out problems of one task, after SGPO minus after the other method.",
        on=_right_plan,
        effect=effects.more_on_the_right_plan,
        where=f"{PAST}, after Fig. 2",
        paper="drawn, not measured (Fig. 2)",
    ),
    Claim(
        "same_mask",
        "with the mask on both, KL beats direct SFT",
        "Table 3 changes two things at once: the loss, and whether tokens with KL above delta are "
        "left out. Here both losses leave out the same tokens.",
        on=MASK.on,
        effect=gain("sgpo", "sgpo_nll_masked"),
    ),
    Claim(
        "no_mask",
        "with no mask on either, KL beats direct SFT",
        "The same comparison of losses with no token left out on either side.",
        on=MASK.on,
        effect=gain("sgpo_no_clip", "sgpo_nll"),
    ),
    Claim(
        "mask_costs",
        "the mask costs direct SFT accuracy",
        "Direct SFT on all tokens minus direct SFT on the unmasked ones.",
        on=MASK.on,
        effect=gain("sgpo_nll", "sgpo_nll_masked"),
    ),
    Claim(
        "guidance_kept",
        "guided answers get no worse while SGPO trains",
        "The teacher of Eq. 5 is the policy itself with the strategy in its prompt: pass rate of "
        "the guided samples in the last quarter of the steps minus in the first.",
        on=COMPARED,
        effect=effects.quarters("guided_reward", "points", 100.0),
    ),
    Claim(
        "frozen_teacher",
        "a teacher that keeps its first weights does better",
        "Average accuracy of SGPO with the warm-up as its teacher minus that of SGPO.",
        on=_where_planned("sgpo_frozen", VARIANT_MODEL),
        effect=gain("sgpo_frozen", "sgpo"),
    ),
    Claim(
        "initial_beats_grpo",
        "SGPO whose first weights teach beats SFT+GRPO",
        "Average accuracy of SGPO with the warm-up as its teacher minus that of SFT+GRPO, each "
        "with the learning rate chosen for it from the same trials.",
        on=TEACHER.on,
        effect=gain(experiments.INITIAL, "grpo"),
    ),
    Claim(
        "delta_three",
        "delta=3 beats delta=1",
        "Average accuracy at the threshold delta=3 of Eq. 5 minus that at the paper's delta=1.",
        on=_where_planned("sgpo_delta3", _delta_models),
        effect=gain("sgpo_delta3", "sgpo"),
    ),
    Claim(
        "equal_tokens",
        "SGPO beats SFT+GRPO at equal scored tokens",
        "Average accuracy of SGPO minus that of SFT+GRPO trained for so many steps that both score "
        "as many tokens, interpolated between budgets.",
        on=lambda study: [gains.MODEL] if gains.budget_needs(study) else [],
        effect=effects.equal_tokens,
    ),
    *map(_beats, experiments.KIN),
)
