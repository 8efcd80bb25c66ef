"""Where the difference in accuracy between two methods comes from: ``sgpo explain-gap A B``.

By benchmark, by how hard the problems are, by types learned, by budget, and by class of distilled
token where a method has a ledger; every difference paired over worlds (or seeds and problems), with
its interval. ``--types`` writes the account type by type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import estimates, worlds
from benchmarks.report.document import Table, row, to_markdown
from benchmarks.report.estimates import AVERAGE, PERCENT, Score
from benchmarks.report.figures.axes import marks, new_figure, png, points, zero
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import Run, Study
from sgpo.core.files import write_bytes, write_text

WHOLE, BENCHMARK, DIFFICULTY, BUDGET = "all", "benchmark", "problems", "budget"
TYPES = "types, %"
LEARNED = 0.5  # of a type's answers right
MASKED = "KL masked, %"
THIRD_NAMES = {"hard": "hardest third", "middle": "middle third", "easy": "easiest third"}


Sides = tuple[Score | None, Score | None]


@dataclass(frozen=True)
class Pair:
    """What is compared: two methods on one model over the seeds that both have."""

    study: Study
    model: str
    methods: tuple[str, str]
    seeds: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, str]:
        first, second = map(self.study.method_label, self.methods)
        return first, second

    def sides(self, number: Callable[..., Score | None], *about: Any) -> Sides:
        """``number(study, model, method, *about)`` of each of the two methods."""
        first, second = (number(self.study, self.model, m, *about) for m in self.methods)
        return first, second


@dataclass(frozen=True)
class Line:
    """One row: both sides and the first minus the second; None where a side has no such number.
    ``adds``: points that it adds to the whole difference, where the rows of a part add up to it."""

    part: str
    name: str
    sides: Sides
    adds: float | None = None

    @property
    def difference(self) -> Score | None:
        return estimates.minus(*self.sides)


def pair_of(study: Study, first: str, second: str, model: str | None) -> Pair:
    """Two methods of the study.

    Raises:
        ValueError: no method of it, or methods that share no model or seed.
    """
    if first == second:
        raise ValueError(f"{first} and {second}: name two methods")
    known = list(dict.fromkeys(cell.method for cell in study.cells))
    for name in (first, second):
        if name not in known:
            raise ValueError(f"{name}: must be a method of the study: {', '.join(known)}")
    both = [
        m.key
        for m in study.models + study.extra_models
        if all(study.cells_of(m.key, method) for method in (first, second))
    ]
    if model not in (None, *both) or not both:
        have = ", ".join(both) or "none"
        raise ValueError(f"--model {model}: must be one that both have: {have}")

    def runs_there(key: str) -> tuple[int, bool]:
        found = [run.cell.method for run in study.runs.values() if run.cell.model == key]
        return sum(map(found.count, (first, second))), key == experiments.BUDGET_MODEL

    chosen = model or max(both, key=runs_there)
    seeds = tuple(estimates.common_seeds(study, chosen, (first, second)))
    if not seeds:
        raise ValueError(f"{first} and {second}: share no seed on {chosen}")
    return Pair(study, chosen, (first, second), seeds)


def lines_of(pair: Pair) -> list[Line]:
    """Every row of the account, the whole difference first.

    Raises:
        ValueError: a run is not there, or was not evaluated.
    """
    whole = Line(WHOLE, "average", pair.sides(estimates.accuracy, AVERAGE, pair.seeds))
    for method, side in zip(pair.methods, whole.sides, strict=True):
        if side is None:
            raise ValueError(
                f"{method} on {pair.model}: not all of its runs are there and evaluated; "
                f"sgpo status --out {pair.study.root} says which"
            )
    found = [whole]
    for benchmark in pair.study.benchmarks:
        sides = pair.sides(estimates.accuracy, benchmark.key, pair.seeds)
        line = Line(BENCHMARK, benchmark.label, sides)
        found.append(replace(line, adds=line.difference.mean / len(pair.study.benchmarks)))
    found += [*_thirds(pair), *_types(pair)]
    for budget in (budget for budget in experiments.BUDGETS if budget != 1.0):
        sides = pair.sides(estimates.accuracy, AVERAGE, pair.seeds, budget)
        found += [Line(BUDGET, f"{budget:g} x the steps", sides)] if None not in sides else []
    for name, words in worlds.CLASSES.items():
        found.append(Line(MASKED, words, pair.sides(worlds.masked_share, [name], pair.seeds)))
    if has_types(pair.study):
        for words, learned in (
            ("choices of types it learned", True),
            ("choices of types it has not", False),
        ):
            masked = partial(_masked_on, pair.study, learned)
            found.append(
                Line(MASKED, words, pair.sides(estimates.run_statistic, masked, pair.seeds))
            )
    return [line for line in found if any(line.sides)]


def _thirds(pair: Pair) -> Iterator[Line]:
    """Problems of each benchmark in thirds, from those whose plans are found most rarely."""
    study = pair.study
    keys = [b.key for b in study.benchmarks if not b.file]
    if not has_types(study):
        return
    for place, third in enumerate(worlds.THIRDS):

        def within(run: Run, place: int = place) -> float:
            return worlds.accuracy_of_third(study, run, place)

        def adds(run: Run, place: int = place) -> float:
            chosen = {k: worlds.thirds_of_problems(study, run.cell.seed, k) == place for k in keys}
            return PERCENT * float(np.mean([(run.accuracy[k] * chosen[k]).mean() for k in keys]))

        of_third, added = (
            pair.sides(estimates.run_statistic, of, pair.seeds) for of in (within, adds)
        )
        yield Line(DIFFICULTY, THIRD_NAMES[third], of_third, estimates.minus(*added).mean)


def has_types(study: Study) -> bool:
    """Whether the types that each problem names are known: those of the miniature's worlds."""
    return not study.problems.empty and not any(b.file for b in study.benchmarks)


def _types(pair: Pair) -> Iterator[Line]:
    """How many of a world's types each side has learned."""

    def learned(run: Run) -> float:
        rates = worlds.accuracy_by_type(pair.study, run).values()
        return PERCENT * float(np.mean([rate >= LEARNED for rate in rates]))

    if has_types(pair.study):
        yield Line(TYPES, "types learned", pair.sides(estimates.run_statistic, learned, pair.seeds))


def _masked_on(study: Study, learned: bool, run: Run) -> float:
    """Share in percent of the KL offered on choices that taught nothing, over the types that the
    run has ``learned`` or has not; NaN where there is no ledger."""
    rates = worlds.accuracy_by_type(study, run)
    sums = [
        kl for kind, kl in worlds.kl_of_choices(run).items() if (rates[kind] >= LEARNED) == learned
    ]
    offered, masked = np.sum(sums, axis=0) if sums else (0.0, 0.0)
    return PERCENT * masked / offered if offered else float("nan")


def types_table(pair: Pair) -> pd.DataFrame:
    """A row a world and type: how often its writers find the plan, the accuracy of both sides on
    problems that name it alone (0 to 1), and of the choices in each side's ledger the KL offered
    and what of it taught nothing (nats; missing without a ledger)."""
    found = []
    for seed in pair.seeds:
        known = pair.study.problems.loc[seed].drop_duplicates("types").set_index("types")["prior"]
        rows: dict[str, dict[str, Any]] = {}
        for method in pair.methods:
            runs = pair.study.runs_of(pair.model, method, scored=True)
            (run,) = (run for run in runs if run.cell.seed == seed)
            choices = worlds.kl_of_choices(run)
            for kind, rate in worlds.accuracy_by_type(pair.study, run).items():
                start = {"world": seed, "type": kind, "prior": known[kind]}
                kl, masked = choices.get(kind, (np.nan, np.nan))
                more = {f"{method}": rate, f"{method}_kl": kl, f"{method}_kl_masked": masked}
                rows[kind] = rows.get(kind, start) | more
        found += rows.values()
    return pd.DataFrame(found)


def message(pair: Pair, lines: Sequence[Line]) -> str:
    """The difference, and what of it comes from where most of it does."""
    whole, (first, second) = lines[0].difference, pair.labels
    model = pair.study.model(pair.model).label
    over = estimates.units_text(pair.study, len(pair.seeds))
    text = f"{first} minus {second} on {model}, {over}: {whole.text()} points. "
    for part, words in ((BENCHMARK, "benchmarks"), (DIFFICULTY, "thirds of the problems")):
        adding = [line for line in lines if line.part == part]
        if adding:
            most = max(adding, key=lambda line: line.adds * np.sign(whole.mean))
            text += f"Of the {words}, {most.name} adds most: {most.adds:+.1f} of it. "
    masked = [line for line in lines if line.part == MASKED and line.difference]
    if masked:
        most = max(masked, key=lambda line: abs(line.difference.mean))
        ours, theirs = (side.mean for side in most.sides)
        text += f"On {most.name} {first} masks {ours:.0f}% of the KL, {second} {theirs:.0f}%."
    return text.strip()


def table(pair: Pair, lines: Sequence[Line]) -> Table:
    """For the terminal."""
    header = ("", "", *pair.labels, "Difference [95%]", "Adds")
    rows = []
    for line in lines:
        means = ("" if side is None else f"{side.mean:.1f}" for side in line.sides)
        gap = line.difference.text() if line.difference else ""
        adds = "" if line.adds is None else f"{line.adds:+.1f}"
        rows.append(row(line.part, line.name, *means, gap, adds))
    caption = "Accuracy in percent, unless said."
    if has_types(pair.study):
        caption += " A type is learned where half of the answers to problems of it alone are right."
    return Table(header, tuple(rows), caption, numeric=frozenset(range(2, 6)))


def figure(pair: Pair, lines: Sequence[Line]) -> Figure:
    """Left the differences in accuracy, right what each side masked, where a side has a ledger."""
    gaps = [line for line in lines if line.part != MASKED]
    masked = [line for line in lines if line.part == MASKED]
    columns = 2 if masked else 1
    drawn, axes = new_figure(1, columns, width=7.2, height=0.9 + 0.24 * max(len(gaps), 8))
    left, places = axes[0, 0], _places(gaps)
    points(left, [line.difference for line in gaps], places, **marks(pair.methods[0]))
    zero(left, upright=True)
    left.set_yticks(places, [line.name for line in gaps])
    left.set(xlabel="difference in accuracy, points", title=" minus ".join(pair.labels))
    if masked:
        right, places = axes[0, 1], _places(masked)
        for side, (method, label) in enumerate(zip(pair.methods, pair.labels, strict=True)):
            if not any(line.sides[side] and line.sides[side].mean for line in masked):
                continue  # no ledger, or a method that masks nothing: its label says it
            shift = [place + 0.2 * (side - 0.5) for place in places]
            points(right, [line.sides[side] for line in masked], shift, label=label,
                   **marks(method) | ({"color": "#777777"} if side else {}))  # fmt: skip
        right.set_yticks(places, [line.name for line in masked])
        right.set(xlabel="masked, % of the KL", xlim=(-4, 104), title="KL that delta masks")
        drawn.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    for axis in axes[0]:
        axis.invert_yaxis()
    return drawn


def _places(lines: Sequence[Line]) -> list[float]:
    """A place a row, with room between the parts."""
    gaps = np.cumsum([a.part != b.part for a, b in zip(lines, lines[:1] + lines[:-1], strict=True)])
    return [number + 0.6 * gap for number, gap in enumerate(gaps)]


def explain_gap(
    results: Path,
    first: str,
    second: str,
    model: str | None,
    out: Path | None,
    types: Path | None = None,
) -> int:
    """Print the account of ``first`` minus ``second``; draw it to ``out`` (PNG) and write it type
    by type to ``types`` (CSV) where these are given.

    Raises:
        ValueError: see ``pair_of`` and ``lines_of``; or ``types`` of a study without any.
    """
    pair = pair_of(load_study(results), first, second, model)
    lines = lines_of(pair)
    if types and not has_types(pair.study):
        raise ValueError(f"--types {types}: only the miniature's problems have types")
    print(f"{message(pair, lines)}\n\n{to_markdown([table(pair, lines)])}", end="")
    if out:
        write_bytes(out, png(figure(pair, lines)))
        print(f"drawn: {out}")
    if types:
        write_text(types, types_table(pair).to_csv(index=False, float_format="%.6g"))
        print(f"type by type: {types}")
    return 0
