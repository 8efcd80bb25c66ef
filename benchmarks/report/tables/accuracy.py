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
from benchmarks.report.artefact import Artefact, Need
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
    return f"{estimates.units_text(study, number)} and the problems, those of one type together"


def _main_caption(study: Study) -> str:
    base = "Base is not trained: one run, its interval is over problems only"
    needs = _main_needs(study)
    alone = any(c.seed is None for need in needs for c in study.cells_of(*need))
    return (
        f"Table 1 ({study.profile} profile). Accuracy in percent, mean and 95% interval over "
        f"{over(study, needs)}{f' ({base})' if alone else ''}. {_sets(study)}; Average: "
        f"unweighted mean of the benchmarks. Sampling: {protocol_text(study)}. Bold: the RL method "
        f"of a model that is above each other one, its paired interval above 0. †: a run diverged "
        f'and is not dropped. "{NOT_RUN}": a planned run is missing; made by: '
        f"{study.command('table1')}"
    )


@dataclass(frozen=True)
class Comparison:
    """The rows of a table that compares with SGPO: (method, label), on every model of ``on``.

    ``about``: what the table is for. ``variants``: SGPO's own variants on their one model.
    """

    name: str
    title: str
    rows: tuple[tuple[str, str], ...]
    on: Callable[[Study], list[str]]
    about: str = ""
    variants: bool = False

    def needs(self, study: Study) -> list[Need]:
        return [(model, method) for model in self.on(study) for method, _ in self.rows]

    def caption(self, study: Study) -> str:
        measured = (
            f"Accuracy in percent, mean and 95% interval over {over(study, self.needs(study))}. "
            f"Difference: average minus SGPO's in points, paired over seeds and problems. †: a run "
            f'diverged and is not dropped. "{NOT_RUN}": a planned run is missing; made by: '
            f"{study.command(self.name)}"
        )
        model = (
            f"{study.model(self.on(study)[0]).label}. {_sets(study)}. Every variant has the "
            f"learning rate that was tuned for SGPO as a whole. Sampling: {protocol_text(study)}."
        )
        title = f"{self.title} ({study.profile} profile)."
        parts = (title, model if self.variants else "", self.about, measured)
        return " ".join(filter(None, parts))

    def artefact(self) -> Artefact:
        return Artefact(
            self.name,
            self.title,
            "scores",
            self.needs,
            self.caption,
            rows=lambda study: accuracy_rows(study, self.needs(study), difference=True),
            table=lambda study, rows: shown(study, rows, dict(self.rows), one_model=self.variants),
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
    return [(model, method) for model in models(study) for method in study.method_order]


def _planned_with(method: str, candidates: Callable[[Study], Sequence[str]]):
    """Those models on which ``method`` is planned, without which there is no such table."""
    return lambda study: [m for m in candidates(study) if study.cells_of(m, method)]


TABLE1 = Artefact(
    "table1",
    "Table 1: main results",
    "scores",
    _main_needs,
    _main_caption,
    rows=lambda study: accuracy_rows(study, _main_needs(study)),
    table=partial(shown, best=True),
    paper=partial(paper_table, "table1"),
)
TABLE2 = Comparison(
    "table2",
    "Table 2: ablations",
    (
        (REFERENCE, "SGPO"),
        ("grpo", "w/o strategy distillation"),
        ("sgpo_no_grpo", "w/o autonomous GRPO"),
        ("sgpo_no_proximal", "w/o all proximal constraints"),
        ("sgpo_no_clip", "w/o KL clipping"),
        ("sgpo_no_selection", "w/o target selection"),
        ("sgpo_fixed_alpha", "w/o adaptive weighting"),
    ),
    on=variant_models,
    about="w/o strategy distillation is SFT+GRPO of Table 1, with its own tuned learning rate and "
    "all samples autonomous.",
    variants=True,
)
TABLE3 = Comparison(
    "table3",
    "Table 3: KL distillation against direct SFT on guided completions",
    ((REFERENCE, "KL distillation"), ("sgpo_nll", "Direct SFT")),
    on=variant_models,
    variants=True,
)
TABLE6 = Comparison(
    "table6",
    "Table 6: direction of the KL",
    ((REFERENCE, "Forward KL"), ("sgpo_reverse", "Reverse KL")),
    on=variant_models,
    variants=True,
)
TABLE7 = Comparison(
    "table7",
    "Table 7: weight of the distillation term",
    (
        (REFERENCE, "Pass-rate-based"),
        ("sgpo_fixed_alpha", "Fixed alpha=1.0"),
        ("sgpo_group_alpha", "Group-advantage"),
    ),
    on=variant_models,
    variants=True,
)
BEYOND = Comparison(
    "beyond",
    "Past the paper: the threshold delta and the selection of Eq. 4",
    (
        (REFERENCE, "SGPO (delta=1, Eq. 4 sums)"),
        ("sgpo_delta0.5", "delta=0.5"),
        ("sgpo_delta1.2", "delta=1.2"),
        ("sgpo_delta1.5", "delta=1.5"),
        ("sgpo_delta2", "delta=2"),
        ("sgpo_delta3", "delta=3"),
        ("sgpo_no_clip", "delta=inf"),
        ("sgpo_frozen", "the teacher keeps its first weights"),
        ("sgpo_meanlogp", "Eq. 4 with the mean log-probability"),
    ),
    on=variant_models,
    variants=True,
)
KIN = Comparison(
    "kin",
    "Past the paper: baselines of the same idea",
    (
        ("grpo", "SFT+GRPO"),
        ("hpt", "HPT"),
        ("luffy", "LUFFY"),
        ("srft", "SRFT (arXiv 2506.19767)"),
        ("opsd", "On-policy self-distillation (arXiv 2601.20802, 2601.18734)"),
        ("dr_grpo", "Dr. GRPO (arXiv 2503.20783)"),
        ("dapo", "DAPO (arXiv 2503.14476)"),
        ("relift", "ReLIFT (arXiv 2506.07527)"),
        ("chord", "CHORD (arXiv 2508.11408)"),
        ("sdpo", "SDPO (arXiv 2601.20802)"),
        (experiments.INITIAL, "SGPO, its first weights as teacher"),
        (REFERENCE, "SGPO"),
    ),
    on=_planned_with("opsd", models),
    about="SRFT adds imitation to reinforcement in one stage, weighted by entropy; on-policy "
    "self-distillation moves the policy, on its own samples, towards itself with the expert's "
    "solution or strategy in view. Every row's learning rate was chosen from the same trials.",
)
TEACHER = Comparison(
    "teacher",
    "Past the paper: SGPO with its first weights as teacher",
    (
        ("grpo", "SFT+GRPO"),
        (REFERENCE, "SGPO: the policy itself"),
        (experiments.INITIAL, "SGPO: the first weights"),
    ),
    on=_planned_with(experiments.INITIAL, models),
    about="Whose distribution, with the strategy in its prompt, SGPO distils: the policy's as it "
    "is at the step, as in the paper, or that of the warm-up checkpoint from which it started. "
    "Each row's learning rate was chosen from the same trials.",
)
MASK = Comparison(
    "mask",
    "Past the paper: is it the mask that separates KL and direct SFT?",
    (
        (REFERENCE, "KL, masked above delta=1 (SGPO)"),
        ("sgpo_no_clip", "KL, no mask"),
        ("sgpo_nll_masked", "Direct SFT, masked as the KL"),
        ("sgpo_nll", "Direct SFT, no mask"),
    ),
    on=_planned_with("sgpo_nll_masked", lambda study: experiments.MASK_MODELS),
    about="Table 3 changes two things at once: the KL of SGPO leaves out tokens above delta, "
    "direct SFT leaves out none. Here loss and mask are varied one at a time.",
)


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


def _sampled_caption(study: Study) -> str:
    sets = "; ".join(
        f"{b.label} n={b.num_problems}, {b.k} samples" for b in measures.benchmarks_of(study)
    )
    return (
        f"What more samples are worth ({study.profile} profile), percent, mean and 95% interval "
        f"over {over(study, _sampled_needs(study))}. pass@k: unbiased, the chance that one of "
        f"{measures.largest_k(study)} samples is correct. maj@k: the share of problems whose "
        f"commonest answer of all samples is correct, a tie by its share; answers that the "
        f"verifier calls equal are one. Mean of {sets}. " + f'"{NOT_RUN}": a run is missing, or '
        f"was evaluated without keeping its answers; made by: {study.command('passk')}"
    )


PASSK = Artefact(
    "passk",
    "Past the paper: pass@k and maj@k",
    "scores",
    _sampled_needs,
    _sampled_caption,
    rows=_sampled_rows,
    table=partial(shown, columns=dict(zip(measures.KINDS, measures.KINDS, strict=True))),
)
DISTIL = Comparison(
    "distil",
    "Past the paper: from SGPO's distillation to on-policy self-distillation",
    (
        ("sgpo_no_grpo", "SGPO's distillation alone"),
        ("distil_rate", "at the other's learning rate"),
        ("distil_plain", "and no mask, all correct guided samples, alpha 1"),
        ("distil_guided", "the same with the first weights as teacher"),
        ("distil_own", "with the policy as teacher, on all twelve own samples, a mean over tokens"),
        ("distil_frozen", "and the first weights as teacher"),
        ("opsd", "and Jensen-Shannon: on-policy self-distillation"),
        (REFERENCE, "SGPO"),
    ),
    on=_planned_with("distil_own", lambda study: experiments.DISTIL_MODELS),
    about="Both distil what a strategy in the prompt changes: one on correct samples that saw it, "
    "up to four a problem and each of the same weight, the other on twelve that did not, right or "
    "wrong, each token of the same weight. Every row has the changes of the rows above it, but for "
    "the teacher; nothing but the first and the last two was tuned.",
)
VARIANT_TABLES = (TABLE2, TABLE3, TABLE6, TABLE7, BEYOND)
