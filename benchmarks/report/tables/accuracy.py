"""Tables of accuracy: the main comparison, SGPO's variants, methods of the same idea, the mask.

All are the same: rows model x method, columns the benchmarks and their unweighted mean, and but for
Table 1 each row's paired difference to SGPO. The paper's numbers go to files of their own and never
share a column with ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.report import estimates, measures
from benchmarks.report.artefact import WORDS, Artefact, Need, described
from benchmarks.report.document import Cell, Table, frame, row
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.store import experiments
from benchmarks.store.records import NOT_RUN, SGPO_VARIANTS, Benchmark, Study, read_rows
from benchmarks.store.stats import interval_text

PAPER_RESULTS = Path(__file__).resolve().parents[3] / "results" / "paper" / "results.csv"
REFERENCE = "sgpo"
DIFFERENCE = "difference_to_sgpo"
DIGITS = 6  # of percents, after the point


def models(study: Study) -> list[str]:
    """Models of the main comparison: those with a planned SGPO run and a planned baseline.

    Models that only serve another artefact (a scaling point, say) have no row of "not run".
    """
    return [
        model.key
        for model in study.models
        if study.cells_of(model.key, REFERENCE)
        and any(study.cells_of(model.key, method) for method in ("grpo", "hpt", "luffy"))
    ]


def variant_models(study: Study) -> list[str]:
    """The model that SGPO's variants are planned on, the first of the study's; [] without them."""
    planned = {cell.model for cell in study.cells if cell.method in SGPO_VARIANTS}
    return [model.key for model in study.models if model.key in planned][:1]


def planned_rows(study: Study) -> list[str]:
    """The methods of Table 1 that the study plans a run of."""
    planned = {cell.method for cell in study.cells}
    return [method for method in study.method_order if method in planned]


def model_of(study: Study) -> str | None:
    """The one of :func:`variant_models`."""
    return next(iter(variant_models(study)), None)


# Numbers ------------------------------------------------------------------------------------------


Statistic = Callable[[str, str, list[int]], Score | None]  # of model and method on these seeds
Columns = dict[str, tuple[Sequence[Benchmark], Statistic]]  # by what stands in column "benchmark"


def seeds_of(study: Study, needs: Sequence[Need]) -> dict[str, list[int]]:
    """Model -> the seeds that all of its methods in ``needs`` have."""
    methods: dict[str, list[str]] = {}
    for model, method in needs:
        methods.setdefault(model, []).append(method)
    return {model: estimates.common_seeds(study, model, of) for model, of in methods.items()}


def cell_rows(
    study: Study, needs: Sequence[Need], columns: Columns, *beside: str
) -> list[dict[str, object]]:
    """One row a cell of a table; rows of one model are over the seeds that all of them have.

    Columns: model, method, benchmark, mean, ci_low, ci_high, num_seeds, num_problems, k, status
    ("finished", "diverged" or "not run", which also stands for a number that does not exist),
    run_ids. ``beside``: methods whose runs are read, too.
    """
    found, seeds = [], seeds_of(study, needs)
    for model, method in needs:
        names = dict.fromkeys((method, *beside))
        groups = [
            estimates.select(study.runs_of(model, m, scored=True), seeds[model]) for m in names
        ]
        runs = [run for group in groups for run in group] if all(groups) else []
        ids = " ".join(run.cell.run_id for run in runs) or NOT_RUN
        diverged = any(run.diverged for run in runs)
        for key, (sets, statistic) in columns.items():
            score, values = statistic(model, method, seeds[model]), [NOT_RUN] * 3
            if score:
                values = (score.mean, score.interval.low, score.interval.high)
                values = [round(value, DIGITS) for value in values]
            elif diverged:
                values = ["diverged"] * 3
            place = {"model": model, "method": method, "benchmark": key}
            numbers = dict(zip(("mean", "ci_low", "ci_high"), values, strict=True))
            made = {
                "num_seeds": score.num_seeds if score else 0,
                "num_problems": sum(b.num_problems for b in sets),
                "k": "/".join(str(b.k) for b in sets),
                "status": "diverged" if diverged else "finished" if score else NOT_RUN,
                "run_ids": ids,
            }
            found.append(place | numbers | made)
    return found


def accuracy_rows(study: Study, needs: Sequence[Need], *, difference: bool = False) -> pd.DataFrame:
    """Accuracy in percent; then with ``difference`` each row's average minus SGPO's in points,
    paired over seeds and problems."""

    def of(key: str) -> Statistic:
        return lambda model, method, seeds: estimates.accuracy(study, model, method, key, seeds)

    def to_sgpo(model: str, method: str, seeds: list[int]) -> Score | None:
        return estimates.gain(study, model, method, REFERENCE, seeds=seeds)

    columns = {b.key: ([b], of(b.key)) for b in study.benchmarks}
    found = cell_rows(study, needs, columns | {AVERAGE: (study.benchmarks, of(AVERAGE))})
    if difference:
        found += cell_rows(study, needs, {DIFFERENCE: (study.benchmarks, to_sgpo)}, REFERENCE)
    return frame(found)


def shown(
    study: Study,
    rows: pd.DataFrame,
    labels: dict[str, str] | None = None,
    *,
    columns: dict[str, str] | None = None,
    one_model: bool = False,
    best: bool = False,
) -> Table:
    """``rows`` as they are printed: one line a model and method.

    Args:
        labels: method -> name in this table; None: the study's.
        columns: what stands for a benchmark in ``rows`` -> name; None: benchmarks and average.
        one_model: leave the model's column out.
        best: the RL method of a model that is above all others of a column in bold.
    """
    keys = columns or {b.key: b.label for b in study.benchmarks} | {AVERAGE: "Average"}
    if DIFFERENCE in set(rows["benchmark"]):
        keys[DIFFERENCE] = "Difference to SGPO"
    head = ("Variant",) if one_model else ("Model", "Method")
    lines = []
    for (model, method), cells in rows.groupby(["model", "method"], sort=False):
        link = f"runs-{model}-{method}" if study.cells_of(model, method) else ""
        bold = _best(study, rows, model) if best else {}
        texts = [
            Cell(cell_text(cell), bold=bold.get(cell.benchmark) == method, link=link)
            for cell in cells.itertuples()
        ]
        label = labels[method] if labels else study.method_label(method)
        lines.append(row(*(() if one_model else (study.model(model).label,)), label, *texts))
    return Table(
        header=(*head, *keys.values()),
        rows=tuple(lines),
        numeric=frozenset(range(len(head), len(head) + len(keys))),
    )


def cell_text(cell) -> str:
    """ "52.1 [49.0, 55.3]" for a row of :func:`accuracy_rows`, signed for a difference, with a
    dagger where a run diverged; "reference", "diverged†" or "not run" where there is no number."""
    if cell.status == NOT_RUN:
        return NOT_RUN
    difference = cell.benchmark == DIFFERENCE
    if difference and cell.method == REFERENCE:
        return "reference"
    dagger = "†" if cell.status == "diverged" else ""
    if isinstance(cell.mean, str):
        return f"diverged{dagger}"
    mean = f"{cell.mean:+.1f}" if difference else f"{cell.mean:.1f}"
    return mean + interval_text(cell.ci_low, cell.ci_high, "{:.1f}".format) + dagger


def _best(study: Study, rows: pd.DataFrame, model: str) -> dict[str, str]:
    """Column -> the RL method that is above every other one there; none among ties."""
    mine = rows[(rows["model"] == model) & rows["method"].isin(study.rl_methods)]
    best = {}
    for column, cells in mine.groupby("benchmark"):
        means = {c.method: c.mean for c in cells.itertuples() if not isinstance(c.mean, str)}
        first = max(means, key=means.get, default=None)
        gains = [estimates.gain(study, model, first, m, column) for m in means if m != first]
        if gains and all(gain is not None and gain.interval.low > 0 for gain in gains):
            best[column] = first
    return best


# Captions -----------------------------------------------------------------------------------------


def protocol_text(study: Study) -> str:
    """The evaluation settings of the scored runs, once if all benchmarks share them."""
    stored: dict[str, str] = {}
    for benchmark in study.benchmarks:
        runs = (run for run in study.runs.values() if benchmark.key in run.protocols)
        if first := next(runs, None):
            stored[benchmark.label] = ", ".join(
                f"{name.replace('_', ' ')} "
                f"{value if isinstance(value, str | int | float) else json.dumps(value)}"
                for name, value in first.protocols[benchmark.key].items()
            )
    if not stored:
        return NOT_RUN
    if len(set(stored.values())) == 1:
        return next(iter(stored.values()))
    return "; ".join(f"{label}: {text}" for label, text in stored.items())


def _sets(study: Study) -> str:
    return "; ".join(f"{b.label} n={b.num_problems}, avg@{b.k}" for b in study.benchmarks)


def over(study: Study, needs: Sequence[Need]) -> str:
    """What means and intervals are over: the seeds that all rows of a model have."""
    counts = {len(seeds) for seeds in seeds_of(study, needs).values()}
    number = " or ".join(map(str, sorted(counts - {0}))) or "no"
    return estimates.over_text(study, number)


@dataclass(frozen=True)
class Comparison:
    """A table of ``artefacts.toml`` that compares with SGPO: its rows on every model of ``on``."""

    name: str
    on: Callable[[Study], list[str]]

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """(method, label) of each."""
        return tuple(WORDS[self.name]["rows"].items())

    def needs(self, study: Study) -> list[Need]:
        rows = [(model, method) for model in self.on(study) for method, _ in self.rows]
        return [need for need in rows if study.cells_of(*need)]

    def artefact(self) -> Artefact:
        words, common = WORDS[self.name], WORDS["comparison"]
        variants = self.on is variant_models

        def known(study: Study) -> dict[str, str]:
            model = study.model(self.on(study)[0]).label
            sets = {"model": model, "sets": _sets(study), "protocol": protocol_text(study)}
            return {
                "over": over(study, self.needs(study)),
                "about": words.get("about", ""),
                "of_variants": common["of_variants"].format(**sets) if variants else "",
            }

        return described(
            self.name,
            self.needs,
            known,
            common["caption"],
            rows=lambda study: accuracy_rows(study, self.needs(study), difference=True),
            table=lambda study, rows: shown(study, rows, dict(self.rows), one_model=variants),
            paper=partial(paper_table, self.name) if self.name in PRINTED else None,
            extended=True,
        )


# The paper's tables -------------------------------------------------------------------------------

PRINTED = ("table1", "table2", "table3", "table6", "table7")


def paper_records(name: str) -> list[dict[str, str]]:
    """The rows of one of the paper's tables (``table2``, say) as printed."""
    return [r for r in read_rows(PAPER_RESULTS) if r["table"] == name]


def paper_table(name: str) -> tuple[pd.DataFrame, Table]:
    """One of the paper's tables as printed: one number a cell, no intervals were given."""
    printed = frame(paper_records(name))
    columns = list(dict.fromkeys(printed["benchmark"]))
    lines = [
        row(*place, *dict(zip(cells["benchmark"], cells["value"], strict=True)).values())
        for place, cells in printed.groupby(["model", "setting"], sort=False)
    ]
    return printed, Table(
        header=("Model", "Method", *columns),
        rows=tuple(lines),
        caption=f"Table {name.removeprefix('table')} of arXiv 2606.24064 (v1), as printed: "
        "accuracy in percent, one run, no intervals given. Other models, other problems: not "
        "comparable with the table above.",
        numeric=frozenset(range(2, len(columns) + 2)),
    )


# The tables ---------------------------------------------------------------------------------------


def _main_needs(study: Study) -> list[Need]:
    """Every method that the study plans on one of the models."""
    rows = planned_rows(study)
    return [(model, method) for model in models(study) for method in rows]


def _main_known(study: Study) -> dict[str, str]:
    needs = _main_needs(study)
    alone = any(c.seed is None for need in needs for c in study.cells_of(*need))
    base = " (Base is not trained: one run, its interval is over problems only)"
    return {
        "over": over(study, needs),
        "alone": base if alone else "",
        "sets": _sets(study),
        "protocol": protocol_text(study),
    }


def standing(study: Study, model: str, method: str) -> str:
    """The row that has the numbers of ``method`` on a model: its own or, where a knob was tuned and
    its usual value chosen, that of the method itself."""
    knob = experiments.TUNED.get(method)
    tuned = knob and any(m.key == method for m in study.extra_methods)
    return knob.of if tuned and not study.cells_of(model, method) else method


def where_planned(
    method: str, candidates: Callable[[Study], Sequence[str]]
) -> Callable[[Study], list[str]]:
    """Those models on which ``method``, or what stands for it, is planned."""
    return lambda study: [
        m for m in candidates(study) if study.cells_of(m, standing(study, m, method))
    ]


TABLE1 = described(
    "table1",
    _main_needs,
    _main_known,
    rows=lambda study: accuracy_rows(study, _main_needs(study)),
    table=partial(shown, best=True),
    paper=partial(paper_table, "table1"),
)
VARIANT_TABLES = tuple(
    Comparison(name, variant_models) for name in ("table2", "table3", "table6", "table7", "beyond")
)
TABLE2, TABLE3, TABLE6, *_ = VARIANT_TABLES
# On the models where what each is about is planned.
KIN = Comparison("kin", where_planned("opsd", models))
TEACHER = Comparison("teacher", where_planned(experiments.INITIAL, models))
MASK = Comparison("mask", where_planned("sgpo_nll_masked", lambda _: experiments.MASK_MODELS))
FACTORS = Comparison("factors", where_planned(experiments.FACTORS[0], variant_models))
DISTIL = Comparison("distil", where_planned("distil_own", lambda _: experiments.DISTIL_MODELS))


# pass@k and maj@k: what more samples are worth, and whether training narrows it -------------------

SAMPLED = ("base", "grpo", "hpt", "luffy", REFERENCE)


def _sampled_needs(study: Study) -> list[Need]:
    """None where no benchmark has enough samples a problem."""
    planned = [(model, method) for model in models(study) for method in SAMPLED]
    return [need for need in planned if measures.largest_k(study) and study.cells_of(*need)]


def _sampled_rows(study: Study) -> pd.DataFrame:
    def of(kind: str) -> Statistic:
        return lambda model, method, seeds: measures.of_samples(study, model, method, kind, seeds)

    columns = {kind: (measures.benchmarks_of(study), of(kind)) for kind in measures.KINDS}
    return frame(cell_rows(study, _sampled_needs(study), columns))


def _sampled_known(study: Study) -> dict[str, object]:
    sets = measures.benchmarks_of(study)
    return {
        "over": over(study, _sampled_needs(study)),
        "k": measures.largest_k(study),
        "sets": "; ".join(f"{b.label} n={b.num_problems}, {b.k} samples" for b in sets),
    }


PASSK = described(
    "passk",
    _sampled_needs,
    _sampled_known,
    rows=_sampled_rows,
    table=partial(shown, columns=dict(zip(measures.KINDS, measures.KINDS, strict=True))),
)
