"""Plan probabilities before and after training, from the ``plans`` analyses."""

from __future__ import annotations

import numpy as np

from benchmarks.report.estimates import Score
from benchmarks.store.records import Analysis, Study

ANALYSIS = "plans"
BEFORE = "sft"
METHODS = (BEFORE, "grpo", "sgpo", "sgpo_reverse")  # as the analysis reads them


def model_of(study: Study) -> str | None:
    """The model that the analyses were planned on; None when there are none."""
    return next((a.model for a in study.analyses if a.key == ANALYSIS), None)


def types_by_difficulty(study: Study) -> list[str]:
    """Types from the one whose right plan is least likely before training to the likeliest."""
    found = study.analyses_of(ANALYSIS)
    if not found:
        return []
    names = list(found[0].result["methods"][BEFORE])
    means = {n: np.mean([a.result["methods"][BEFORE][n]["right"] for a in found]) for n in names}
    return sorted(names, key=lambda name: float(means[name]))


def of_type(study: Study, method: str, kind: str, quantity: str) -> Score | None:
    """Mean over seeds of ``right``, ``entropy`` (nats) or ``go_on`` of one type."""
    return _over_seeds(study, method, lambda types: types[kind][quantity])


def of_all(study: Study, method: str, quantity: str) -> Score | None:
    """The same, averaged over the types."""
    return _over_seeds(study, method, lambda types: _mean(types, quantity))


def sorted_mass(study: Study, method: str) -> np.ndarray | None:
    """Probability of the likeliest, second likeliest, ... plan of a type, float [seeds, 64]: each
    type's plans are sorted by themselves, then averaged over the types."""
    found = study.analyses_of(ANALYSIS)
    if not found:
        return None
    rows = [
        np.mean([np.sort(t["plans"])[::-1] for t in a.result["methods"][method].values()], axis=0)
        for a in found
    ]
    return np.array(rows)


def _mean(types: dict, quantity: str) -> float:
    return float(np.mean([entry[quantity] for entry in types.values()]))


def _over_seeds(study: Study, method: str, statistic) -> Score | None:
    """Mean over seeds with draws that resample seeds only; None where an analysis is missing."""
    found = study.analyses_of(ANALYSIS)
    if not found:
        return None
    values = np.array([statistic(a.result["methods"][method]) for a in found])
    return Score(
        mean=float(values.mean()),
        draws=study.resamples.seed_weights(len(values)) @ values,
        num_seeds=len(values),
        run_ids=tuple(_run_of(study, a, method) for a in found),
    )


def _run_of(study: Study, analysis: Analysis, method: str) -> str:
    return next(i for i in analysis.inputs if study.runs[i].cell.method == method)
