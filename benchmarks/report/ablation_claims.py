"""The paper's claims on SGPO's variants: Tables 2, 3 and 6 as tests.

All on the one model that the variants are planned on; no claims at all where the study plans no
variant.
"""

from __future__ import annotations

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.claim import Claim, judged
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import REFERENCE, TABLE2, TABLE3, TABLE6
from benchmarks.store.records import Study

PROXIMAL = "sgpo_no_proximal"


def needs(study: Study) -> list[tuple[str, str]]:
    """(model, method) of every row that a claim compares."""
    model = accuracy.model_of(study)
    if model is None:
        return []
    methods = [method for table in (TABLE2, TABLE3, TABLE6) for method, _ in table.rows]
    return [(model, method) for method in dict.fromkeys(methods)]


def evaluate(study: Study) -> list[Claim]:
    """Claims in the order of the paper's tables; [] where the study plans no variant."""
    model = accuracy.model_of(study)
    if model is None:
        return []
    on = study.model(model).label
    return [
        *(
            _better(
                study,
                model,
                method,
                key="ablation_hurts",
                statement="removing a component hurts",
                subject=f"{label}, {on}",
                paper=_paper_loss("table2", label),
            )
            for method, label in TABLE2.rows
            if method != REFERENCE
        ),
        proximal_hurts_most(study, model),
        _better(
            study,
            model,
            "sgpo_nll",
            key="kl_beats_sft",
            statement="KL distillation beats direct SFT on the same completions",
            subject=on,
            paper=_paper_loss("table3", dict(TABLE3.rows)["sgpo_nll"]),
        ),
        _better(
            study,
            model,
            "sgpo_reverse",
            key="forward_beats_reverse",
            statement="forward KL beats reverse KL",
            subject=on,
            paper=_paper_loss("table6", dict(TABLE6.rows)["sgpo_reverse"]),
        ),
    ]


def proximal_hurts_most(study: Study, model: str) -> Claim:
    """Loss without all proximal constraints minus the largest other loss of Table 2, in points.

    The other one is chosen by its mean, which works against the claim; ``probability`` compares
    with the largest other loss of each draw. "not run" while any row of Table 2 is missing.
    """
    others = [method for method, _ in TABLE2.rows if method not in (REFERENCE, PROXIMAL)]
    # loss(PROXIMAL) - loss(other) = accuracy(other) - accuracy(PROXIMAL): SGPO drops out.
    margins = {m: estimates.gain(study, model, m, PROXIMAL) for m in others}
    present = {m: margin for m, margin in margins.items() if margin is not None}
    complete = len(present) == len(others)
    complete = complete and estimates.accuracy(study, model, REFERENCE, AVERAGE) is not None
    effect, probability, detail = None, None, ""
    if complete:
        nearest = min(present, key=lambda m: present[m].mean)
        effect = present[nearest]
        lowest = np.min([margin.draws for margin in present.values()], axis=0)
        probability = float((lowest > 0).mean())
        detail = f"largest other loss: {dict(TABLE2.rows)[nearest]}; P: against that of each draw"
    printed = _paper_averages("table2")
    labels = dict(TABLE2.rows)
    margin = min(printed[labels[m]] for m in others) - printed[labels[PROXIMAL]]
    return judged(
        key="proximal_hurts_most",
        statement="removing the proximal constraints hurts most",
        subject=study.model(model).label,
        unit="points",
        effect=effect,
        paper=f"{margin:+.1f} points",
        detail=detail,
        probability=probability,
    )


def _better(study: Study, model: str, method: str, **text: str) -> Claim:
    """SGPO's average minus that of a variant, paired, in points."""
    effect = estimates.gain(study, model, REFERENCE, method)
    return judged(unit="points", effect=effect, **text)


def _paper_averages(table: str) -> dict[str, float]:
    """Row label -> average as printed."""
    return {
        r["setting"]: float(r["value"])
        for r in accuracy.paper_records(table)
        if r["benchmark"] == "Average"
    }


def _paper_loss(table: str, label: str) -> str:
    averages = _paper_averages(table)
    (first, *_) = averages.values()  # SGPO's own row comes first in each of these tables
    return f"{first - averages[label]:+.1f} points"
