"""How many seeds or worlds a difference would take to be found: ``sgpo power``."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

from benchmarks.report import estimates
from benchmarks.report.document import Table, page, row
from benchmarks.report.tables.accuracy import models
from benchmarks.store.load import load_study
from benchmarks.store.records import Study
from benchmarks.store.stats import units_needed


def power(results: Path, effect: float) -> str:
    """For each pair of methods that is compared, how many units find a true ``effect`` (points) in
    80 of 100 studies, from the spread of the stored runs.

    Raises:
        ValueError: an effect of 0 or less, or no pair of methods with two units.
    """
    if not 0 < effect < math.inf:
        raise ValueError(f"--effect {effect:g}: must be a number of points above 0")
    study = load_study(results)
    rows = [line for model in models(study) for line in _pairs(study, model, effect)]
    if not rows:
        raise ValueError(f"{results}: no two methods that both have two scored seeds or more")
    world = "Worlds" if study.miniature else "With other problems"
    header = ("Model", "Pair", "Units", "Difference", "SD of units", "SD of problems",
              "Detectable now", "Seeds for it", world)  # fmt: skip
    if study.own_problems:
        header = (*header[:7], "Worlds for it")
        rows = [line[:8] for line in rows]
    table = Table(header, tuple(row(*line) for line in rows), numeric=frozenset(range(2, 9)))
    return page("POWER.md.jinja", effect=f"{effect:g}", own=study.own_problems, table=table)


def _pairs(study: Study, model: str, effect: float) -> list[tuple[str, ...]]:
    lines = []
    for first, second in combinations(study.rl_methods, 2):
        gain = estimates.gain(study, model, second, first)
        if gain is None or gain.num_seeds < 2:
            continue
        of = gain.of
        needed = [units_needed(of, effect, own_problems=own) for own in (False, True)]
        lines.append(
            (
                study.model(model).label,
                f"{study.method_label(second)} - {study.method_label(first)}",
                str(gain.num_seeds),
                f"{gain.mean:+.1f}",
                f"{of.unit_variance**0.5:.1f}",
                f"{of.problem_variance**0.5:.1f}",
                f"{of.detectable():.1f}",
                *("never" if n is None else str(n) for n in needed),
            )
        )
    return lines
