"""The claims: what the paper says, and some questions past it, as tests on our runs.

``claims.toml`` is the one place to add a claim: a statement, where the paper makes it, how it is
measured, on which models it is asked and the effect. Which runs it needs follows from the effect.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report import effects, estimates, measures
from benchmarks.report.effects import ROW, TIMES, Effect, Need, Subject, gain
from benchmarks.report.estimates import Score
from benchmarks.report.figures import gains
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import (
    KIN,
    MASK,
    TABLE2,
    TABLE3,
    TABLE6,
    TEACHER,
    where_planned,
)
from benchmarks.store import experiments, stats
from benchmarks.store.records import NOT_RUN, Study
from benchmarks.store.stats import BUILT_IN, EQUIVALENT, FAILS, HOLDS, TOO_LITTLE

FILE = Path(__file__).with_name("claims.toml")
PAST = "past the paper"
NOT_MEASURED = "not measured"
# Effects that are as good as none, by unit: half of the smallest effects that the paper prints
# (+1.1 points, 1.78x has no smaller one), and what a curve's line is wide.
MARGINS = {"points": 1.0, "alpha": 0.02, "nats": 0.01, TIMES: math.log(1.1)}
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
    made_so: why it follows from how the miniature is made; it is not tested there.
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
    made_so: str = ""

    def untested(self, study: Study) -> str:
        """Why it is not tested in a study; empty where it is."""
        return self.built_in or (" ".join(self.made_so.split()) if study.miniature else "")

    def subjects(self, study: Study) -> list[Subject]:
        asked = self.on(study)
        return [Subject(a, study.model(a).label) if isinstance(a, str) else a for a in asked]


@dataclass(frozen=True)
class Verdict:
    """A claim tested on one subject. ``effect`` is None where runs are missing; one in ``TIMES`` is
    the logarithm of a factor. ``p``: two-sided, of no effect; ``corrected``: after Holm,
    for the paper's claims. ``picked_from``: the other row was the best of so many."""

    claim: Claim
    statement: str
    subject: str
    effect: Score | None
    verdict: str
    paper: str
    detail: str = ""
    p: float | None = None
    corrected: float | None = None
    picked_from: int = 1

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
    why = claim.untested(study)
    if effect is not None and why:
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
        detail="; ".join(filter(None, (why, sign, found.detail))),
        p=p,
        picked_from=found.picked_from,
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
        return []
    small, large = (study.model(key).label for key in (family[0], family[-1]))
    return [Subject(family[-1], f"{large} vs {small}")]


def _right_plan(study: Study) -> list[Subject]:
    return [
        Subject(model, f"than {study.method_label(other)}, {study.model(model).label}", other)
        for model in measures.models_of(study, measures.PLANS)
        for other in ("grpo", "sgpo_reverse")
    ]


ASKED_ON: dict[str, Callable[[Study], list[str] | list[Subject]]] = {
    "compared": accuracy.models,  # those of Table 1
    "variants": TABLE2.on,  # the one that SGPO's variants run on
    "ablations": _ablations,
    "sizes": _family,
    "plans": _right_plan,
    "steps": lambda study: measures.models_of(study, measures.STEPS),
    "mask": MASK.on,
    "teacher": TEACHER.on,
    "deltas": lambda study: list(dict.fromkeys([*TABLE2.on(study), experiments.SECOND_MODEL])),
    "budgets": lambda study: [gains.MODEL] if gains.budget_needs(study) else [],
}


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


PRINTED: dict[str, Callable[[Subject], str]] = {
    "margins": _printed_margins,
    "sizes": _printed_sizes,
    "largest_loss": _printed_largest_loss,
    "table2": _printed_loss(TABLE2),
    "table3": _printed_loss(TABLE3, "sgpo_nll"),
    "table6": _printed_loss(TABLE6, "sgpo_reverse"),
}


# The claims ---------------------------------------------------------------------------------------


def _beats(other: str) -> Claim:
    return Claim(
        f"beats_{other}",
        lambda study: f"SGPO beats {study.method_label(other)}",
        "Average accuracy of SGPO minus that of the other method, each with the learning rate "
        "chosen for it from the same trials.",
        on=where_planned(other, KIN.on),
        effect=gain("sgpo", other),
    )


def read(stored: Mapping[str, Any]) -> list[Claim]:
    """The claims of ``claims.toml``, or of a table like it."""
    found = []
    for entry in map(dict, stored["claim"]):
        on, planned = ASKED_ON[entry.pop("on")], entry.pop("planned", "")
        pair, name = entry.pop("gain", None), entry.pop("effect", None)
        assert (pair is None) != (name is None), f"{entry['key']}: either gain or effect"
        printed, paper = entry.pop("printed", None), entry.pop("paper", NOT_MEASURED)
        how = entry.pop("how").format(picked=stored.get("picked"))
        found.append(
            Claim(
                how=" ".join(how.split()),
                on=where_planned(planned, on) if planned else on,
                effect=gain(*pair) if pair else getattr(effects, name),
                paper=PRINTED[printed] if printed else paper,
                apart=tuple(entry.pop("apart", ())),
                **entry,
            )
        )
    return found


CLAIMS = (
    *read(tomllib.loads(FILE.read_text(encoding="utf-8"))),
    *map(_beats, experiments.KIN),
)
