"""Table 1: accuracy of every method on every benchmark, and the paper's own table beside it.

The paper's numbers go to files of their own (``table1_paper``) and never share a column with ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import estimates
from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Study, read_rows

NAME = "table1"
TITLE = "Table 1: main results"
USES = "scores"
PAPER_RESULTS = Path(__file__).resolve().parents[3] / "results" / "paper" / "results.csv"


def models(study: Study) -> list[str]:
    """Models the table compares methods on: those with a planned SGPO run and a planned baseline.

    Models that only serve another artefact (a scaling point, say) have no row of "not run".
    """
    return [
        model.key
        for model in study.models
        if study.cells_of(model.key, "sgpo")
        and any(study.cells_of(model.key, method) for method in ("grpo", "hpt", "luffy"))
    ]


def needs(study: Study) -> list[tuple[str, str]]:
    return [(model, method) for model in models(study) for method in study.method_order]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/table1.{md,csv,tex} and tables/table1_paper.{md,csv,tex}."""
    note = standing_note(study.profile)
    ours = write_table(out_dir / "tables" / NAME, table(study), note=note, records=records(study))
    return ours + write_paper_table(out_dir)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study), paper_table()]


def table(study: Study) -> Table:
    """Rows model x method, columns the benchmarks and their unweighted mean."""
    columns = [b.key for b in study.benchmarks] + [AVERAGE]
    rows = []
    for model in models(study):
        best = _best(study, model, columns)
        for method in study.method_order:
            link = f"runs-{model}-{method}" if study.cells_of(model, method) else ""
            cells = [
                TextCell(cell_text(study, model, method, c), bold=method in best[c], link=link)
                for c in columns
            ]
            label = study.method_label(method)
            rows.append(row(study.model(model).label, label, *cells))
    if not rows:
        rows = [row(*[NOT_RUN] * (len(columns) + 2))]
    return Table(
        header=("Model", "Method", *(b.label for b in study.benchmarks), "Average"),
        rows=tuple(rows),
        caption=caption(study),
        numeric=frozenset(range(2, len(columns) + 2)),
    )


def cell_text(study: Study, model: str, method: str, benchmark: str) -> str:
    """ "mean [low, high]" in percent, with a dagger where a run diverged, or "not run"."""
    runs = study.runs_of(model, method, scored=True)
    if not runs:
        return NOT_RUN
    dagger = "†" if any(run.diverged for run in runs) else ""
    score = estimates.accuracy(study, model, method, benchmark)
    if score is None:
        return f"diverged{dagger}" if dagger else NOT_RUN
    interval = score.interval
    return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]{dagger}"


def caption(study: Study) -> str:
    """n, k, seeds, protocol and number of draws, as the numbers of this table have them."""
    sets = "; ".join(f"{b.label} n={b.num_problems}, avg@{b.k}" for b in study.benchmarks)
    planned = [study.cells_of(*need) for need in needs(study)]
    seeds = sorted({c.seed for cells in planned for c in cells if c.seed is not None})
    counts = sorted({len(cells) for cells in planned if cells and cells[0].seed is not None})
    return (
        f"Table 1 ({study.profile} profile). Accuracy in percent, mean and 95% interval. {sets}; "
        f"Average: unweighted mean of the benchmarks. Seeds {_join(seeds)} ({_join(counts)} "
        f"runs a row; Base is not trained: one run, its interval is over problems only). "
        f"Sampling: {protocol_text(study)}. Intervals: two-level bootstrap over seeds and "
        f"problems, {study.resamples.num_draws} draws. Bold: best RL method of a model in a "
        f'column. †: a run diverged and is not dropped. "{NOT_RUN}": a planned run is missing; '
        f"made by: {study.command(NAME)}"
    )


def protocol_text(study: Study) -> str:
    """The evaluation settings of the scored runs, once if all benchmarks share them."""
    stored: dict[str, str] = {}
    for benchmark in study.benchmarks:
        for run in study.runs.values():
            if benchmark.key in run.protocols:
                settings = run.protocols[benchmark.key]
                stored[benchmark.label] = ", ".join(
                    f"{name.replace('_', ' ')} {value if _plain(value) else json.dumps(value)}"
                    for name, value in settings.items()
                )
                break
    if not stored:
        return NOT_RUN
    if len(set(stored.values())) == 1:
        return next(iter(stored.values()))
    return "; ".join(f"{label}: {text}" for label, text in stored.items())


def records(study: Study, rows: Sequence[tuple[str, str]] | None = None) -> list[dict[str, object]]:
    """The table in long form, one record a cell; a number that does not exist is "not run".

    ``rows``: (model, method) pairs; None for those of Table 1.
    """
    entries: list[dict[str, object]] = []
    problems = {b.key: b.num_problems for b in study.benchmarks}
    samples = {b.key: str(b.k) for b in study.benchmarks}
    problems[AVERAGE] = sum(problems.values())
    samples[AVERAGE] = "/".join(samples.values())
    for model, method in needs(study) if rows is None else rows:
        runs = study.runs_of(model, method, scored=True)
        for benchmark in problems:
            score = estimates.accuracy(study, model, method, benchmark)
            diverged = any(run.diverged for run in runs)
            status = "diverged" if diverged else ("finished" if score else NOT_RUN)
            absent = "diverged" if diverged else NOT_RUN
            entries.append(
                {
                    "model": model,
                    "method": method,
                    "benchmark": benchmark,
                    "mean": round(score.mean, 6) if score else absent,
                    "ci_low": round(score.interval.low, 6) if score else absent,
                    "ci_high": round(score.interval.high, 6) if score else absent,
                    "num_seeds": len(runs),
                    "num_problems": problems[benchmark],
                    "k": samples[benchmark],
                    "status": status,
                    "run_ids": " ".join(run.cell.run_id for run in runs) or NOT_RUN,
                }
            )
    return entries or [{"model": NOT_RUN, "method": NOT_RUN, "benchmark": NOT_RUN}]


def paper_records(name: str) -> list[dict[str, str]]:
    """The rows of one of the paper's tables (``table2``, say) as printed."""
    return [r for r in read_rows(PAPER_RESULTS) if r["table"] == name]


def paper_table(name: str = NAME) -> Table:
    """One of the paper's tables as printed: one number a cell, no intervals were given."""
    printed = paper_records(name)
    columns = list(dict.fromkeys(r["benchmark"] for r in printed))
    values = {(r["model"], r["setting"], r["benchmark"]): r["value"] for r in printed}
    groups = list(dict.fromkeys((r["model"], r["setting"]) for r in printed))
    return Table(
        header=("Model", "Method", *columns),
        rows=tuple(row(*g, *(values[(*g, column)] for column in columns)) for g in groups),
        caption=f"{_title(name)} of arXiv 2606.24064 (v1), as printed: accuracy in percent, one "
        "run, no intervals given. Other models, other problems: not comparable with the table "
        "above.",
        numeric=frozenset(range(2, len(columns) + 2)),
    )


def write_paper_table(out_dir: Path, name: str = NAME) -> list[Path]:
    """Writes tables/``name``_paper.{md,csv,tex}: files that hold none of our numbers."""
    return write_table(
        out_dir / "tables" / f"{name}_paper",
        paper_table(name),
        note=f"Numbers as printed in arXiv 2606.24064 (v1), {_title(name)}; none of them is ours.",
        records=paper_records(name),
    )


def _title(name: str) -> str:
    return f"Table {name.removeprefix('table')}"


def _best(study: Study, model: str, columns: list[str]) -> dict[str, set[str]]:
    """Column -> the RL methods whose printed mean is the highest (more than one when equal)."""
    best = {}
    for column in columns:
        scores = {m: estimates.accuracy(study, model, m, column) for m in study.rl_methods}
        means = {m: round(score.mean, 1) for m, score in scores.items() if score}
        best[column] = {m for m, mean in means.items() if mean == max(means.values())}
    return best


def _join(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values) or NOT_RUN


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float)
