"""What each method spent: steps, samples, sampled tokens and wall time of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Run, Study

NAME = "budget"
TITLE = "Budgets"
USES = "metrics"


def needs(study: Study) -> list[tuple[str, str]]:
    """Every planned model and method that is trained."""
    return list(dict.fromkeys((c.model, c.method) for c in study.cells if c.seed is not None))


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/budget.{md,csv,tex}."""
    note = standing_note(study.profile)
    stem = out_dir / "tables" / NAME
    return write_table(stem, table(study), note=note, records=records(study))


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study)]


def records(study: Study) -> list[dict[str, object]]:
    """Means over the seeds of a model and method; times in seconds."""
    entries: list[dict[str, object]] = []
    for model, method in needs(study):
        runs = study.runs_of(model, method, scored=False)
        entries.append(
            {
                "model": model,
                "method": method,
                "num_runs": len(runs),
                "num_steps": _mean(runs, lambda run: run.num_steps),
                "num_samples": _mean(runs, lambda run: run.num_samples),
                "sampled_tokens": _mean(runs, lambda run: run.sampled_tokens),
                "train_seconds": _mean(runs, lambda run: run.train_seconds),
                "eval_seconds": _mean(runs, lambda run: run.eval_seconds),
                "run_ids": " ".join(run.cell.run_id for run in runs) or NOT_RUN,
            }
        )
    return entries or [{"model": NOT_RUN, "method": NOT_RUN}]


def table(study: Study) -> Table:
    """Rows model x method, numbers per run."""
    rows = [
        row(
            study.model(str(r["model"])).label,
            study.method_label(str(r["method"])),
            TextCell(str(r["num_runs"]), link=f"runs-{r['model']}-{r['method']}"),
            _text(r["num_steps"]),
            _text(r["num_samples"]),
            _text(r["sampled_tokens"]),
            _text(r["train_seconds"]),
            _text(r["eval_seconds"]),
        )
        for r in (records(study) if needs(study) else [])
    ]
    return Table(
        header=(
            "Model",
            "Method",
            "Runs",
            "Steps",
            "Samples",
            "Sampled tokens",
            "Training, s",
            "Evaluation, s",
        ),
        rows=tuple(rows) or (row(*[NOT_RUN] * 8),),
        caption="What one run of each method spent, mean over its seeds, its warm-up not counted. "
        "Samples and tokens: everything sampled for training, guided samples included. Wall time "
        "as run, with other runs beside it on the machines of the run list.",
        numeric=frozenset(range(2, 8)),
    )


def _mean(runs: tuple[Run, ...], value: Callable[[Run], float | None]) -> float | str:
    values = [value(run) for run in runs]
    if not runs:
        return NOT_RUN
    if any(v is None for v in values):
        return "not recorded"
    return round(sum(v for v in values if v is not None) / len(runs), 3)


def _text(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)
