"""Tables that print what runs and checks have stored: budgets, the regime of the mini world, what
problem sets share, tuning trials, and Table 8 (the quality of the strategies)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from benchmarks.report.artefact import Artefact, Need, nothing
from benchmarks.report.document import Table, TextCell, frame, row
from benchmarks.report.estimates import PERCENT
from benchmarks.report.tables.accuracy import paper_records
from benchmarks.store.records import NOT_RUN, Run, Study, StudyError, read_object, read_rows


def _or_not_run(records: list[dict[str, Any]], *columns: str) -> pd.DataFrame:
    return frame(records or [dict.fromkeys(columns, NOT_RUN)])


def _empty(rows: pd.DataFrame) -> bool:
    return bool((rows.iloc[0] == NOT_RUN).all())


# Budgets: steps, samples, sampled tokens and wall time --------------------------------------------

SPENT: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "num_steps": ("Steps", lambda run: run.num_steps),
    "num_samples": ("Samples", lambda run: run.num_samples),
    "sampled_tokens": ("Sampled tokens", lambda run: run.sampled_tokens),
    "train_seconds": ("Training, s", lambda run: run.train_seconds),
    "eval_seconds": ("Evaluation, s", lambda run: run.eval_seconds),
}


def _trained(study: Study) -> list[Need]:
    """Every planned model and method that is trained."""
    return list(dict.fromkeys((c.model, c.method) for c in study.cells if c.seed is not None))


def budget_rows(study: Study) -> pd.DataFrame:
    """Means over the seeds of a model and method; times in seconds."""
    found = []
    for model, method in _trained(study):
        runs = study.runs_of(model, method, scored=False)
        entry = {"model": model, "method": method, "num_runs": len(runs)}
        entry |= {name: _mean(runs, value) for name, (_, value) in SPENT.items()}
        found.append(entry | {"run_ids": " ".join(run.cell.run_id for run in runs) or NOT_RUN})
    return frame(found)


def _mean(runs: tuple[Run, ...], value: Callable[[Run], float | None]) -> float | str:
    values = [value(run) for run in runs]
    if not runs:
        return NOT_RUN
    known = [v for v in values if v is not None]
    return round(sum(known) / len(runs), 3) if len(known) == len(runs) else "not recorded"


def _budget_table(study: Study, rows: pd.DataFrame) -> Table:
    def text(value: object) -> str:
        return f"{value:,.0f}" if isinstance(value, float) else str(value)

    header = ("Model", "Method", "Runs", *(label for label, _ in SPENT.values()))
    lines = [
        row(
            study.model(r["model"]).label,
            study.method_label(r["method"]),
            TextCell(str(r["num_runs"]), link=f"runs-{r['model']}-{r['method']}"),
            *(text(r[name]) for name in SPENT),
        )
        for r in rows.to_dict("records")
    ]
    return Table(header, tuple(lines), numeric=frozenset(range(2, len(header))))


BUDGET = Artefact(
    "budget",
    "Budgets",
    "metrics",
    _trained,
    lambda study: (
        "What one run of each method spent, mean over its seeds, its warm-up not counted. "
        "Samples and tokens: everything sampled for training, guided samples included. Wall time "
        "as run, with other runs beside it on the machines of the run list."
    ),
    rows=budget_rows,
    table=_budget_table,
)


# Problem sets and what they share -----------------------------------------------------------------


def _stored(study: Study, name: str, key: str, remedy: str) -> Any:
    """What a file of the study holds under ``key``; None where there is no file."""
    path = study.root / name
    if not path.exists():
        return None
    stored = read_object(path)
    if key not in stored:
        raise StudyError(f"{name} lacks {key!r}; {remedy}")
    return stored[key]


AGAIN = "remove it and run the study again"


def shared_questions(study: Study) -> pd.DataFrame:
    """One row a pair of problem sets with the number of questions that both have."""
    columns = ("first", "second", "questions")
    try:
        pairs = _stored(study, "disjointness.json", "shared", AGAIN) or []
        return _or_not_run([{name: pair[name] for name in columns} for pair in pairs], *columns)
    except (KeyError, TypeError) as error:
        raise StudyError(f"disjointness.json lacks {error}; {AGAIN}") from error


def _sets_table(study: Study, rows: pd.DataFrame) -> Table:
    lines = []
    if not _empty(rows):
        for name, entry in _stored(study, "disjointness.json", "sets", AGAIN).items():
            pairs = rows[((rows["first"] == name) | (rows["second"] == name)) & rows["questions"]]
            text = ", ".join(
                f"{p.questions} with {p.second if p.first == name else p.first}"
                for p in pairs.itertuples()
            )
            cell = TextCell(text, bold=True) if text else TextCell("none")
            lines.append(row(name, str(entry["problems"]), entry["sha256"][:12], cell))
    return Table(
        header=("Set", "Problems", "sha256", "Questions shared with another set"),
        rows=tuple(lines) or (row(*[NOT_RUN] * 4),),
        numeric=frozenset({1}),
    )


DISJOINTNESS = Artefact(
    "disjointness",
    "Problem sets and what they share",
    "scores",
    nothing,
    lambda study: (
        "Every problem set of the study. Questions are compared in lower case without "
        "spacing and punctuation; pretraining text is drawn from the training partition, which a "
        "hash of the digits keeps apart from development and test."
    ),
    rows=shared_questions,
    table=_sets_table,
    miniature=True,
)


# The regime of the miniature, measured before any RL result ---------------------------------------

REPORTED = "reported"  # a number without a requirement


def conditions(study: Study) -> list[dict[str, object]]:
    """One record a model and measured number from regime.json; empty when it was not measured.

    Conditions come first; what is only reported follows, ``passed`` being "reported" too.
    """
    remedy = "measure it again with sgpo mini check"
    try:
        return [
            record
            for model, measured in (_stored(study, "regime.json", "models", remedy) or {}).items()
            for record in [
                *(_condition(model, **entry) for entry in measured["conditions"]),
                *(
                    _condition(model, name, value, REPORTED, None)
                    for name, value in _flat(measured.get("reported", {}))
                ),
            ]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"regime.json lacks {error}; {remedy}") from error


def _condition(
    model: str, name: str, value: object, requirement: str, passed: bool | None
) -> dict[str, object]:
    return {
        "model": model,
        "condition": name,
        "value": value,
        "requirement": requirement,
        "passed": REPORTED if passed is None else passed,
    }


def _flat(reported: Mapping[str, object]) -> list[tuple[str, object]]:
    """Numbers under their names; a breakdown of rates ("..._by_...") as its range."""
    found: list[tuple[str, object]] = []
    for name, value in reported.items():
        words = name.replace("_", " ")
        if not isinstance(value, dict):
            found.append((words, "none" if value is None else value))
        elif "_by_" in name and value:
            low, high = min(value.values()), max(value.values())
            found.append((words, f"{_short(low)} to {_short(high)}"))
        else:
            found += [(f"{words}: {inner}", number) for inner, number in _flat(value)]
    return found


def _short(value: object) -> str:
    """A measured value in short form; lists and nested values as they are."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return str(value)


def _regime_table(study: Study, rows: pd.DataFrame) -> Table:
    labels = {model.key: model.label for model in study.models}
    outcomes = {REPORTED: TextCell(""), True: TextCell("passed")}
    lines = [
        row(
            labels.get(c["model"], c["model"]),
            c["condition"],
            _short(c["value"]),
            c["requirement"],
            outcomes.get(c["passed"], TextCell("FAILED", bold=True)),
        )
        for c in ([] if _empty(rows) else rows.to_dict("records"))
    ]
    return Table(
        header=("Model", "Condition", "Measured", "Required", "Outcome"),
        rows=tuple(lines) or (row(*[NOT_RUN] * 5),),
        numeric=frozenset({2}),
    )


REGIME = Artefact(
    "regime",
    "Regime of the miniature world",
    "scores",
    nothing,
    lambda study: (
        "Conditions under which the miniature can tell methods apart, measured on each "
        "base model. Made by: sgpo mini check"
    ),
    rows=lambda study: _or_not_run(conditions(study), "model", "condition", "value", "requirement"),
    table=_regime_table,
    miniature=True,
)


# Table 8: quality of the strategies ---------------------------------------------------------------

STRATEGIES = "strategies"  # the analysis
BANDS = (("High", "[0.8, 1.0]"), ("Medium", "[0.5, 0.8)"), ("Low", "[0.0, 0.5)"))
CRITERIA = {"type": "Type right", "strategy": "Strategy apt", "steps": "Steps named",
            "no_leak": "No leak"}  # fmt: skip
GROUPS = {"chosen": "Kept: best of 5", "candidates": "All candidates"}
FLAWS = {
    "sound": "of them: sound",
    "vague": "of them: one choice left open",
    "wrong_choice": "of them: one choice wrong",
    "wrong_type": "of them: another type's plan",
    "thin_steps": "of them: no steps",
    "leak": "of them: answer given away",
}


def _scored(study: Study) -> Mapping[str, Any] | None:
    """What the analysis stored, None while it is not there."""
    found = study.analyses_of(STRATEGIES)
    return found[0].result if found else None


def strategy_rows(study: Study) -> pd.DataFrame:
    """The kept strategies, all candidates, and these by what was wrong with them, with the counts
    behind the shares."""
    stored = _scored(study)
    names = ["count", *(name.lower() for name, _ in BANDS), "mean", *CRITERIA, "made_from"]
    if stored is None:
        absent = dict.fromkeys(names, NOT_RUN)
        return frame([{"strategies": label, **absent} for label in GROUPS.values()])
    summaries = {label: stored[key] for key, label in GROUPS.items()}
    summaries |= {v: stored["by_flaw"][k] for k, v in FLAWS.items() if k in stored["by_flaw"]}
    return frame(
        [
            {"strategies": label, "count": s["count"]}
            | {name.lower(): s["bands"][name] for name, _ in BANDS}
            | {"mean": s["mean"], **{key: s["by_criterion"][key] for key in CRITERIA}}
            | {"made_from": STRATEGIES}
            for label, s in summaries.items()
        ]
    )


def _strategy_table(study: Study, rows: pd.DataFrame) -> Table:
    lines = []
    for r in rows.to_dict("records"):
        if r["count"] == NOT_RUN:
            lines.append(row(r["strategies"], *[NOT_RUN] * (2 + len(BANDS) + len(CRITERIA))))
            continue
        shares = (100 * r[name.lower()] / r["count"] for name, _ in BANDS)
        means = (r[name] for name in ("mean", *CRITERIA))
        texts = (*(f"{share:.1f}" for share in shares), *(f"{mean:.2f}" for mean in means))
        lines.append(row(r["strategies"], str(r["count"]), *texts))
    bands = (f"{name} {limits}, %" for name, limits in BANDS)
    return Table(
        header=("Strategies", "Number", *bands, "Mean score", *CRITERIA.values()),
        rows=tuple(lines),
        numeric=frozenset(range(1, 3 + len(BANDS) + len(CRITERIA))),
    )


def _strategy_caption(study: Study) -> str:
    stored = _scored(study)
    best = "" if stored is None else (
        f" No other candidate scores higher than the kept one on {100 * stored['best_kept']:.1f}% "
        f"of the problems."
    )  # fmt: skip
    return (
        f"Table 8 ({study.profile} profile): strategies of the rule-based expert for the first "
        f"problems of the RL split, five candidates a problem, the best by the expert's own "
        f"scores kept. Scored from the text alone by carrying the named plan out on other lists: "
        f"this scorer shares no code with the expert's but the arithmetic. A total is the mean of "
        f"four criteria in 0 to 1; bands as in the paper.{best} A census of 500 problems, so "
        f'without intervals. "{NOT_RUN}": the analysis is missing; made by: '
        f"{study.command('table8')}"
    )


def _strategies_as_printed() -> tuple[pd.DataFrame, Table]:
    printed = paper_records("table8")
    values = {(r["setting"], r["benchmark"]): r["value"] for r in printed}
    settings = list(dict.fromkeys(setting for setting, _ in values))
    return frame(printed), Table(
        header=("Band", "Strategies", "Percent"),
        rows=tuple(row(s, values[s, "Count"], values[s, "Percent"]) for s in settings),
        caption="Table 8 of arXiv 2606.24064 (v1), as printed: 500 strategies extracted from "
        "DeepSeek-R1's responses, scored by Step-3.5-Flash on four criteria. Another expert on "
        "other problems: not comparable with the table above.",
        numeric=frozenset({1, 2}),
    )


TABLE8 = Artefact(
    "table8",
    "Table 8: quality of the strategies",
    "metrics",
    nothing,
    _strategy_caption,
    rows=strategy_rows,
    table=_strategy_table,
    paper=_strategies_as_printed,
    analyses=(STRATEGIES,),
    extended=True,
    miniature=True,
)


# Tuning: what each method was given to choose from, and what was chosen ---------------------------

TRIAL = ("method", "trial", "settings", "learning_rate", "dev_accuracy", "dev_ci_low",
         "dev_ci_high", "chosen", "run_id")  # fmt: skip


def trials(study: Study) -> list[dict[str, str]]:
    """Rows of tuning.csv, checked; empty when nothing was tuned.

    Raises:
        StudyError: a missing column, settings that are not JSON, or an accuracy outside [0, 1].
    """
    path = study.root / "tuning.csv"
    stored = read_rows(path) if path.exists() else []
    for trial in stored:
        lacking = [name for name in TRIAL if trial.get(name) is None]
        if lacking:
            raise StudyError(f"tuning.csv lacks column {lacking[0]!r}; repeat the tuning")
        where = f"tuning.csv, {trial['method']} trial {trial['trial']}"
        try:
            json.loads(trial["settings"])
            accuracy = float(trial["dev_accuracy"])
        except ValueError as error:
            raise StudyError(f"{where}: {error}; repeat the trial") from error
        if not 0.0 <= accuracy <= 1.0:
            raise StudyError(
                f"{where}: dev_accuracy {accuracy} must be a share in [0, 1]; repeat the trial"
            )
    return stored


def _tuning_table(study: Study, rows: pd.DataFrame) -> Table:
    """Rows method x trial; the chosen trial of a method in bold."""
    lines = []
    for trial in [] if _empty(rows) else rows.to_dict("records"):
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
        lines.append(
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
        rows=tuple(lines) or (row(*[NOT_RUN] * 7),),
        numeric=frozenset({1, 2, 4}),
    )


def _tuning_caption(study: Study) -> str:
    if not (study.root / "tuning.csv").exists():
        return "Nothing was tuned in this study. Made by: sgpo tune (the mini profile)"
    return (
        "Every trial of the tuning, the same number for each method, judged on the development "
        f"set (percent, 95% interval); no test set was read. Made by: {study.command('tuning')}"
    )


TUNING = Artefact(
    "tuning",
    "Tuning trials",
    "scores",
    nothing,
    _tuning_caption,
    rows=lambda study: _or_not_run([dict(trial) for trial in trials(study)], *TRIAL),
    table=_tuning_table,
)
