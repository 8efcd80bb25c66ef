"""Tables that print what runs and checks have stored: budgets, the regime of the mini world, what
problem sets share, tuning trials, and Table 8 (the quality of the strategies)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report import regime, worlds
from benchmarks.report.artefact import Need, described, nothing
from benchmarks.report.document import Cell, Table, frame, listing, row
from benchmarks.report.estimates import PERCENT
from benchmarks.report.tables.accuracy import models, paper_records
from benchmarks.store.records import NOT_RUN, Run, Study, StudyError, read_object, read_rows


def _or_not_run(records: Sequence[dict[str, Any]], *columns: str) -> pd.DataFrame:
    return frame(records or [dict.fromkeys(columns, NOT_RUN)])


def _stored(study: Study, name: str, *keys: str) -> list[Any]:
    """What a file of the study holds under each of ``keys``; empty where there is no file."""
    path = study.root / name
    if not path.exists():
        return [{} for _ in keys]
    stored = read_object(path)
    lacking = [key for key in keys if key not in stored]
    if lacking:
        raise StudyError(f"{name} lacks {lacking[0]!r}; remove it and run the study again")
    return [stored[key] for key in keys]


# Budgets: steps, samples, sampled tokens and wall time --------------------------------------------

SPENT = {
    "num_steps": "Steps",
    "num_samples": "Samples",
    "sampled_tokens": "Sampled tokens",
    "train_seconds": "Training, s",
    "eval_seconds": "Evaluation, s",
}


def _trained(study: Study) -> list[Need]:
    """Every planned model and method that is trained."""
    trained = (c for c in study.cells if c.seed is not None and c.method != "base")
    return list(dict.fromkeys((c.model, c.method) for c in trained))


def budget_rows(study: Study) -> pd.DataFrame:
    """Means over the seeds of a model and method; times in seconds."""
    found = []
    for model, method in _trained(study):
        runs = study.runs_of(model, method, scored=False)
        entry = {"model": model, "method": method, "num_runs": len(runs)}
        entry |= {name: _mean(runs, name) for name in SPENT}
        found.append(entry | {"run_ids": " ".join(run.cell.run_id for run in runs) or NOT_RUN})
    return frame(found)


def _mean(runs: tuple[Run, ...], name: str) -> float | str:
    values = [getattr(run, name) for run in runs]
    if not runs:
        return NOT_RUN
    return "not recorded" if None in values else round(sum(values) / len(runs), 3)


def _budget_table(study: Study, rows: pd.DataFrame) -> Table:
    def text(value: object) -> str:
        return f"{value:,.0f}" if isinstance(value, float) else str(value)

    columns = {
        "Model": lambda r: study.model(r["model"]).label,
        "Method": lambda r: study.method_label(r["method"]),
        "Runs": lambda r: Cell(str(r["num_runs"]), link=f"runs-{r['model']}-{r['method']}"),
    } | {label: lambda r, name=name: text(r[name]) for name, label in SPENT.items()}
    return listing(rows, columns, range(2, len(columns)))


BUDGET = described("budget", _trained, rows=budget_rows, table=_budget_table)


# Problem sets and what they share -----------------------------------------------------------------


def _sets_rows(study: Study) -> pd.DataFrame:
    """One row a pair of problem sets with the number of questions that both have."""
    (shared,) = _stored(study, "disjointness.json", "shared")
    return _or_not_run(shared, "first", "second", "questions")


def _sets_table(study: Study, rows: pd.DataFrame) -> Table:
    """A line a set, with what it shares with others."""
    (sets,) = _stored(study, "disjointness.json", "sets")
    pairs = [p for p in rows.to_dict("records") if p["questions"] and p["first"] in sets]

    def shared(entry: dict[str, Any]) -> Cell:
        both = {p["second"] if p["first"] == entry["name"] else p["first"]: p["questions"]
                for p in pairs if entry["name"] in (p["first"], p["second"])}  # fmt: skip
        text = ", ".join(f"{number} with {other}" for other, number in both.items())
        return Cell(text or "none", bold=bool(text))

    columns = {
        "Set": lambda entry: entry["name"],
        "Problems": lambda entry: str(entry["problems"]),
        "sha256": lambda entry: entry["sha256"][:12],
        "Questions shared with another set": shared,
    }
    return listing(pd.DataFrame([{"name": n} | e for n, e in sets.items()]), columns, [1])


DISJOINTNESS = described("disjointness", nothing, rows=_sets_rows, table=_sets_table)


# The regime of the miniature ----------------------------------------------------------------------


def _regime_needs(study: Study) -> list[Need]:
    found = [(model, stage) for model in models(study) for stage in regime.STAGES]
    return found if worlds.planned(study) else []


def _regime_table(study: Study, rows: pd.DataFrame) -> Table:
    """The means over worlds; the CSV has every world."""
    found = rows.to_dict("records")
    if rows["world"].iloc[0] != NOT_RUN:
        found = regime.means(found)
    outcomes = {True: Cell("passed"), False: Cell("FAILED", bold=True)}
    columns = {
        "Model": lambda c: study.model(c["model"]).label,
        "Condition": lambda c: c["condition"],
        "Mean over worlds": lambda c: f"{c['value']:.3f}",
        "Required": lambda c: c["requirement"],
        "Outcome": lambda c: outcomes[c["passed"]],
        "World by world": regime.holds,
    }
    return listing(pd.DataFrame(found), columns, [2])


REGIME = described(
    "regime",
    _regime_needs,
    rows=lambda study: _or_not_run(
        regime.of_study(study), "model", "world", "condition", "value", "requirement"
    ),
    table=_regime_table,
)


# Table 8: quality of the strategies ---------------------------------------------------------------

STRATEGIES = "strategies"  # the analysis
BANDS = {"High": "[0.8, 1.0]", "Medium": "[0.5, 0.8)", "Low": "[0.0, 0.5)"}
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


def strategy_rows(study: Study) -> pd.DataFrame:
    """The kept strategies, all candidates, and these by what was wrong with them, with the counts
    behind the shares."""
    found = study.analyses_of(STRATEGIES)
    if not found:
        names = ("count", *map(str.lower, BANDS), "mean", *CRITERIA, "made_from")
        absent = dict.fromkeys(names, NOT_RUN)
        return frame([{"strategies": label, **absent} for label in GROUPS.values()])
    stored = found[0].result
    summaries = {label: stored[key] for key, label in GROUPS.items()}
    summaries |= {v: stored["by_flaw"][k] for k, v in FLAWS.items() if k in stored["by_flaw"]}
    return frame(
        [
            {"strategies": label, "count": s["count"]}
            | {name.lower(): s["bands"][name] for name in BANDS}
            | {"mean": s["mean"], **{key: s["by_criterion"][key] for key in CRITERIA}}
            | {"made_from": STRATEGIES}
            for label, s in summaries.items()
        ]
    )


def _strategy_table(study: Study, rows: pd.DataFrame) -> Table:
    def share(r: dict[str, Any], name: str) -> str:
        return NOT_RUN if r[name] == NOT_RUN else f"{100 * r[name] / r['count']:.1f}"

    def mean(r: dict[str, Any], name: str) -> str:
        return NOT_RUN if r[name] == NOT_RUN else f"{r[name]:.2f}"

    columns = {"Strategies": lambda r: r["strategies"], "Number": lambda r: str(r["count"])}
    for name, limits in BANDS.items():
        columns[f"{name} {limits}, %"] = partial(share, name=name.lower())
    for name, label in {"mean": "Mean score", **CRITERIA}.items():
        columns[label] = partial(mean, name=name)
    return listing(rows, columns, range(1, len(columns)))


def _strategies_known(study: Study) -> dict[str, str]:
    best = (
        f"No other candidate scores higher than the kept one on {100 * a.result['best_kept']:.1f}% "
        "of the problems."
        for a in study.analyses_of(STRATEGIES)
    )
    return {"best": " ".join(best)}


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


TABLE8 = described(
    "table8",
    nothing,
    _strategies_known,
    rows=strategy_rows,
    table=_strategy_table,
    paper=_strategies_as_printed,
)


# Tuning: what each method was given to choose from, and what was chosen ---------------------------

TRIAL = ("method", "trial", "learning_rate", "seed", "dev_accuracy", "dev_ci_low", "dev_ci_high",
         "chosen", "run_id")  # fmt: skip


def _tuning_rows(study: Study) -> pd.DataFrame:
    """The trials on the profile's own model, then those on others (tuning-MODEL.csv)."""
    paths = sorted(study.root.glob("tuning*.csv"), key=lambda path: path.stem)
    rows = [{"model": _model_of(trial)} | trial for path in paths for trial in read_rows(path)]
    return _or_not_run(rows, "model", *TRIAL)


def _model_of(trial: dict[str, str]) -> str:
    return trial["run_id"].partition(f"-{trial['method']}-")[0]


def _labels(study: Study) -> dict[str, str]:
    """Of the models that the study has; trials may be of others."""
    return {model.key: model.label for model in study.models + study.extra_models}


def _tuning_table(study: Study, rows: pd.DataFrame) -> Table:
    """Rows model x method, a column a rate: the mean over the worlds and each world's, the chosen
    rate's in bold."""
    if (rows["method"] == NOT_RUN).all():
        return listing(rows, {"Model": str, "Method": str})
    labels = _labels(study)
    rows = rows.astype({"learning_rate": float, "dev_accuracy": float})
    place = {model.key: i for i, model in enumerate(study.models)}
    rows = rows.sort_values("model", key=lambda keys: keys.map(place), kind="stable")
    rates = sorted(rows["learning_rate"].unique())
    lines = []
    for (model, method), found in rows.groupby(["model", "method"], sort=False):
        cells = []
        for rate in rates:
            here = found[found["learning_rate"] == rate]
            worlds = PERCENT * here["dev_accuracy"]
            each = ", ".join(f"{value:.1f}" for value in worlds)
            text = f"{worlds.mean():.1f} ({each})" if len(here) else NOT_RUN
            cells.append(Cell(text, bold=bool((here["chosen"] == "True").any())))
        lines.append(row(labels.get(model, model), study.method_label(method), *cells))
    header = ("Model", "Method", *(f"{rate:g}" for rate in rates))
    return Table(header, tuple(lines), numeric=frozenset(range(2, len(header))))


def _selection_bias(study: Study) -> str:
    """How much too good the chosen rates look: their mean over the worlds, less that of the rates
    which the other worlds choose, each judged in the world left out."""
    rows, biases = _tuning_rows(study), {}
    if (rows["method"] == NOT_RUN).all():
        return ""
    for (model, method), found in rows.groupby(["model", "method"], sort=False):
        found = found.astype({"learning_rate": float, "dev_accuracy": float})
        table = PERCENT * found.pivot_table("dev_accuracy", "learning_rate", "seed")
        if table.shape[1] < 2:
            return ""
        left_out = [table.drop(columns=world).mean(axis=1).idxmax() for world in table]
        judged = [table.loc[rate, world] for rate, world in zip(left_out, table, strict=True)]
        biases[model, method] = table.mean(axis=1).max() - np.mean(judged)
    model, method = most = max(biases, key=lambda key: biases[key])
    return (
        " Selection bias: a rate that is chosen without a world and judged in it does "
        f"{np.mean([*biases.values()]):.1f} points worse than the chosen rates look here, on "
        f"average over the rows (most: {biases[most]:.1f}, {study.method_label(method)} on "
        f"{_labels(study).get(model, model)})."
    )


TUNING = described(
    "tuning",
    nothing,
    lambda study: {"bias": _selection_bias(study)},
    rows=_tuning_rows,
    table=_tuning_table,
)
