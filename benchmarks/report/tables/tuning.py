"""Every tuning trial: what each method was given to choose from, and what was chosen."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.estimates import PERCENT
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Study, StudyError, read_rows

NAME = "tuning"
TITLE = "Tuning trials"
USES = "scores"
COLUMNS = (
    "method",
    "trial",
    "settings",
    "learning_rate",
    "dev_accuracy",
    "dev_ci_low",
    "dev_ci_high",
    "chosen",
    "run_id",
)


def needs(study: Study) -> list[tuple[str, str]]:
    """No run of the grid: trials are runs of their own on the development set."""
    return []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/tuning.{md,csv,tex}."""
    records: list[dict[str, object]] = [dict(trial) for trial in trials(study)]
    records = records or [dict.fromkeys(COLUMNS, NOT_RUN)]
    note = standing_note(study.profile)
    return write_table(out_dir / "tables" / NAME, table(study), note=note, records=records)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study)]


def trials(study: Study) -> list[dict[str, str]]:
    """Rows of tuning.csv, checked; empty when nothing was tuned.

    Raises:
        StudyError: a missing column, settings that are not JSON, or an accuracy outside [0, 1].
    """
    path = study.root / "tuning.csv"
    if not path.exists():
        return []
    stored = read_rows(path)
    for trial in stored:
        lacking = [name for name in COLUMNS if trial.get(name) is None]
        if lacking:
            raise StudyError(f"tuning.csv lacks column {lacking[0]!r}; repeat the tuning")
        try:
            json.loads(trial["settings"])
            accuracy = float(trial["dev_accuracy"])
        except ValueError as error:
            raise StudyError(
                f"tuning.csv, {trial['method']} trial {trial['trial']}: {error}; repeat the trial"
            ) from error
        if not 0.0 <= accuracy <= 1.0:
            raise StudyError(
                f"tuning.csv, {trial['method']} trial {trial['trial']}: dev_accuracy {accuracy} "
                "must be a share in [0, 1]; repeat the trial"
            )
    return stored


def table(study: Study) -> Table:
    """Rows method x trial; the chosen trial of a method in bold."""
    rows = []
    for trial in trials(study):
        chosen = trial["chosen"].strip().lower() in ("1", "true", "yes")
        settings = json.loads(trial["settings"])
        if isinstance(settings, dict):
            text = ", ".join(f"{name} {value}" for name, value in settings.items()) or "defaults"
        else:
            text = trial["settings"]
        low, mean, high = (
            f"{PERCENT * float(trial[name]):.1f}"
            for name in ("dev_ci_low", "dev_accuracy", "dev_ci_high")
        )
        rows.append(
            row(
                study.method_label(trial["method"]),
                trial["trial"],
                trial["learning_rate"],
                text,
                TextCell(f"{mean} [{low}, {high}]", bold=chosen),
                "chosen" if chosen else "",
                trial["run_id"],
            )
        )
    return Table(
        header=("Method", "Trial", "Learning rate", "Settings", "Dev accuracy", "", "Run"),
        rows=tuple(rows) or (row(*[NOT_RUN] * 7),),
        caption="Every trial of the tuning, the same number for each method, judged on the "
        "development set (percent, 95% interval); no test set was read. "
        f"Made by: {study.command(NAME)}",
        numeric=frozenset({1, 2, 4}),
    )
