"""What ``REPORT.md.jinja`` is filled with, and the README's block of results, which is generated so
that it cannot drift from the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import claims, claims_page, document, headline, measures, regime
from benchmarks.report.artefact import Artefact, Made
from benchmarks.report.claims import Verdict
from benchmarks.report.compare import SAMPLE_PAGE
from benchmarks.report.document import (
    Cell,
    Markdown,
    Table,
    in_words,
    row,
    to_markdown,
)
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables import accuracy
from benchmarks.store.records import NOT_RUN, Model, PlannedRun, Study

# The figures of the main part: of each the first that the study has.
LEAD, WHY, WHERE = ("equal_cost", "fig4"), ("delta", "fig5"), ("when",)
# Claims past the paper that take the mechanism apart.
TAKEN_APART = (
    "guidance_kept", "frozen_teacher", "same_mask", "no_mask", "right_plan",
)  # fmt: skip


def title(study: Study) -> str:
    """The title of the report and of the browser tab."""
    return f"SGPO benchmark suite: {study.profile} profile"


def report(
    study: Study,
    content: Mapping[Artefact, Made],
    missing: Sequence,
    commands: Sequence[str],
) -> str:
    """REPORT.md.

    Args:
        content: what was made, in the order of the report.
        missing: ``build.MissingCell`` entries.
        commands: what makes the missing runs.
    """
    made = {artefact.name: blocks.blocks for artefact, blocks in content.items()}
    found = claims.evaluate(study)
    tables, tested = (made.pop(name, []) for name in ("table1", "claims"))
    papers = 1 + next((i for i, b in enumerate(tested) if isinstance(b, Table)), 0)

    def take(names: Sequence[str]) -> Markdown:
        return to_markdown(made.pop(next((name for name in names if name in made), ""), []))

    lead, mechanism, worlds = map(take, (LEAD, WHY, WHERE))
    later = [("Claims past the paper", "claims-past", tested[papers:]),
             ("Table 1 as printed in the paper", "table1-printed", tables[1:])]  # fmt: skip
    later += [(a.title, a.name, made.get(a.name, [])) for a in content]
    return document.page(
        "REPORT.md.jinja",
        title=title(study),
        note=document.standing_note(study.miniature),
        short=headline.short(study, found),
        ahead=headline.ahead(study),
        sampled=sampled(study),
        miniature=study.miniature,
        lead=lead,
        mechanism=mechanism,
        worlds=worlds,
        sizes=in_words(map(_with_size, map(study.model, accuracy.models(study)))) or NOT_RUN,
        seeds=study.seeds,
        setting=[] if study.miniature else [*decoding(study), *guidance(study)],
        example=example(study),
        table1=to_markdown(tables[:1]),
        claims=to_markdown(tested[:papers]),
        reasons=why(found),
        texts=texts(study),
        one_base=all(len(study.cells_of(m.key, "base")) == 1 for m in study.models),
        unweighted=unweighted(study),
        trust=f"{diverged(study)} {regime_sentence(study)}",
        command=study.command("NAME"),
        appendix=[(name, at, to_markdown(blocks)) for name, at, blocks in later if blocks],
        missing=missing_table(missing) if missing else "",
        commands=Markdown("\n".join(commands)),
        **run_list(study),
    )


# The world ---------------------------------------------------------------------------------------


def _with_size(model: Model) -> str:
    return f"{model.label} ({model.parameters:,} weights)" if model.parameters else model.label


def decoding(study: Study) -> list[str]:
    """How long answers may be and how many a problem gets, where a run says it."""
    configs = [run.stored.object("config.json") for run in study.runs.values()]
    lengths = sorted({c["evaluation"]["max_tokens"] for c in configs})
    samples = in_words([f"{b.label} {b.k}" for b in study.benchmarks])
    tokens = in_words([f"{length:,}" for length in lengths])
    return [f"Answers have at most {tokens} tokens; samples a problem: {samples}."] * bool(lengths)


def guidance(study: Study) -> list[str]:
    """Pass rates on the development split with the strategy and without, a line a run."""
    return [
        f"{study.model(run.cell.model).label}, {study.method_label(run.cell.method)}, development "
        f"split: {measures.guidance_text(run.stored.object('regime.json'))}."
        for run in study.runs.values()
        if run.stored.has("regime.json")
    ]


def sampled(study: Study) -> str:
    """How many completions a run samples, and which methods have another number."""
    numbers: dict[str, list[int]] = {}  # method -> of each of its runs
    for run in study.runs.values():
        if run.num_samples:
            numbers.setdefault(run.cell.method, []).append(run.num_samples)
    if "grpo" not in numbers:
        return f"Completions a run: {NOT_RUN}."
    means = {study.method_label(m): sum(n) / len(n) for m, n in numbers.items()}
    usual = means[study.method_label("grpo")]
    others = [f"{label} {mean:,.0f}" for label, mean in means.items() if mean != usual]
    text = f"A run samples {usual:,.0f} completions, guided ones included and expert traces not"
    return f"{text}, with every method." if not others else f"{text}; {in_words(others)}."


def example(study: Study) -> Markdown | str:
    """The example of Figure 5 where there is one."""
    found = measures.step_example(study)
    if found is None:
        return ""
    completion = "".join(found["pieces"]).replace("<|end|>", "")
    parts = {"question": found["question"], "strategy": found["strategy"], "completion": completion}
    lines = [f"{name:<11} {' / '.join(text.split(chr(10)))}" for name, text in parts.items()]
    return document.code("\n".join(lines))


# Why, where, and what it cannot say --------------------------------------------------------------


def why(found: Sequence[Verdict]) -> list[str]:
    """The claims that take the mechanism apart, one line each; the table has those not run."""
    chosen = [v for v in found if v.key in TAKEN_APART and v.verdict != NOT_RUN]
    return [*map(claims_page.sentence, claims_page.lines(chosen))]


def texts(study: Study) -> Markdown:
    """The way to the page of samples, where the study was published with one."""
    text = "What SGPO and SFT+GRPO wrote where they differ, in the first world"
    return document.link(text, SAMPLE_PAGE if (study.root / SAMPLE_PAGE).exists() else "")


def unweighted(study: Study) -> str:
    """What an average hides whose benchmarks differ in size."""
    if len({b.num_problems for b in study.benchmarks}) < 2:
        return ""
    smallest = sorted(study.benchmarks, key=lambda b: b.num_problems)[: len(study.benchmarks) // 2]
    names = in_words(f"{b.label} ({b.num_problems} problems)" for b in smallest)
    share = 100 * len(smallest) / len(study.benchmarks)
    return f"The average is unweighted: {names} carry {share:.0f}% of it."


def diverged(study: Study) -> str:
    runs = [run for run in study.runs.values() if run.diverged]
    names = "; ".join(f"{r.cell.run_id} ({r.diverged_reason or 'no reason'})" for r in runs)
    return f"Diverged and kept in the tables: {names}." if runs else "No run diverged."


def regime_sentence(study: Study) -> str:
    """What of the regime's conditions holds on the means over worlds, and in how many of them."""
    if not study.miniature:
        return ""
    measured = regime.means(regime.of_study(study))
    if not measured:
        return f"The regime of the miniature world was {NOT_RUN} (sgpo mini check)."
    failed = [
        f"{study.model(c['model']).label}: {c['condition']}, {c['value']:.3f} where "
        f"{c['requirement']} is required ({regime.holds(c)})"
        for c in measured
        if not c["passed"]
    ]
    if failed:
        return f"Regime conditions that failed, read the results with care: {'; '.join(failed)}."
    least = min(measured, key=lambda c: c["holding"] / c["worlds"])
    return (
        f"All {len(measured)} regime conditions hold on the mean over worlds; "
        f"{least['condition']}, {study.model(least['model']).label}, {regime.holds(least)}, "
        "no other in fewer."
    )


# What is missing, and the runs -------------------------------------------------------------------


def missing_table(missing: Sequence) -> Table:
    rows = tuple(
        row(cell.run_id or "not planned", cell.model, cell.method,
            "" if cell.seed is None else str(cell.seed), cell.reason, ", ".join(cell.artefacts))
        for cell in missing
    )  # fmt: skip
    header = ("Run", "Model", "Method", "Seed", "State", "Needed by")
    note = "Runs without which a cell says so; the commands below make them."
    return Table(header, rows, note)


def run_list(study: Study) -> dict[str, Table]:
    """The runs behind the numbers, a line a model and method, and where they were made."""
    places: dict[str, str] = {}  # environment as JSON -> its name
    rows, anchors = [], []
    for model, method in dict.fromkeys((c.model, c.method) for c in study.cells):
        cells = study.cells_of(model, method)
        made = dict.fromkeys(
            json.dumps(study.runs[c.run_id].environment, sort_keys=True)
            for c in cells
            if c.run_id in study.runs
        )
        names = [places.setdefault(place, f"E{len(places) + 1}") for place in made]
        link = f"environment-{names[0]}" if len(names) == 1 else ""
        rows.append(
            row(study.model(model).label, study.method_label(method), _states(study, cells),
                f"{model}-{method}-: " + " ".join(map(_tail, cells)),
                Cell(", ".join(names), link=link))
        )  # fmt: skip
        anchors.append(f"runs-{model}-{method}")
    listing = Table(
        header=("Model", "Method", "State", "Runs", "Environment"),
        rows=tuple(rows) or (row(*[NOT_RUN] * 5),),
        caption="Every planned run by the end of its id: seed and content address of its config. "
        "runs.parquet, or the directory runs/<run>, holds config, environment, metrics, result and "
        "verdicts.",
        row_anchors=tuple(anchors),
    )
    where = Table(
        header=("Environment", "Machine", "CPU", "Cores", "Python", "Commit", "Packages"),
        rows=tuple(_environment_row(name, json.loads(text)) for text, name in places.items())
        or (row(*[NOT_RUN] * 7),),
        caption="Where the runs were made.",
        row_anchors=tuple(f"environment-{name}" for name in places.values()),
    )
    return {"runs": listing, "environments": where}


def _tail(cell: PlannedRun) -> str:
    return cell.run_id.removeprefix(f"{cell.model}-{cell.method}-")


def _states(study: Study, cells: Sequence[PlannedRun]) -> str:
    """ "5 finished", and each run that is otherwise with its reason."""
    good, others = 0, []
    for cell in cells:
        run = study.runs.get(cell.run_id)
        reason = study.why_missing(cell, scored=True)
        if run is not None and run.diverged:
            reason = f"diverged †: {run.diverged_reason or 'no reason stored'}"
        good += reason is None
        others += [f"{_tail(cell)} {reason}"] if reason else []
    return "; ".join(([f"{good} finished"] if good else []) + others)


def _environment_row(name: str, environment: dict[str, Any]) -> tuple[Cell, ...]:
    packages = environment.get("packages", {})
    listed = ", ".join(f"{package} {version}" for package, version in sorted(packages.items()))
    stored = {key: str(value) for key, value in environment.items() if value is not None}
    if "git_commit" in stored:
        changed = " with local changes" if environment.get("git_dirty") else ""
        stored["git_commit"] = stored["git_commit"][:12] + changed
    names = ("machine", "cpu", "cores", "python", "git_commit")
    values = [stored.get(key, "not recorded") for key in names]
    return row(name, *values, listed or "not recorded")


# The README's block of results -------------------------------------------------------------------

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def results_block(study: Study) -> str:
    """Markdown of the README's block: averages, how many claims hold, and where the rest is."""
    papers = [v.verdict for v in claims.evaluate(study) if not v.past]
    over = accuracy.over(study, accuracy.TABLE1.needs(study))
    asked = {
        "over": over,
        "averages": _averages(study),
        "tests": papers,
        "tally": headline.tally(papers),
    }
    return document.page("RESULTS.md.jinja", **asked)


def _averages(study: Study) -> Table:
    rows = accuracy.accuracy_rows(study, accuracy.TABLE1.needs(study))
    means = {(r.model, r.method): r for r in rows[rows["benchmark"] == AVERAGE].itertuples()}
    shown = accuracy.models(study)
    lines = [
        row(study.method_label(method), *(accuracy.cell_text(means[m, method]) for m in shown))
        for method in study.method_order
    ]
    return Table(header=("Method", *(study.model(m).label for m in shown)), rows=tuple(lines))


def with_block(readme: str, block: str) -> str:
    """``readme`` with the text between the markers replaced."""
    head, _, rest = readme.partition(BEGIN)
    _, marker, tail = rest.partition(END)
    if not marker:
        raise ValueError(f"README.md: holds no {BEGIN} ... {END}")
    return f"{head}{BEGIN}\n{block}{END}{tail}"
