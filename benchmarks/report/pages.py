"""The text of the report: the first page with its generated sentences, the run list, and the
README's block of results, which is generated so that it cannot drift from the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import claims, claims_page, estimates
from benchmarks.report.artefact import Artefact, Made
from benchmarks.report.claims import Verdict
from benchmarks.report.document import (
    Block,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Table,
    TextCell,
    is_miniature,
    row,
    standing_note,
    to_markdown,
)
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.records import conditions
from benchmarks.store import stats
from benchmarks.store.records import NOT_RUN, Run, Study

# The figures of the first page: the first three of these that have something to show.
FIRST_FIGURES = ("curves", "fig5", "map_difficulty", "fig4", "scaling")
NUM_FIRST_FIGURES = 3
VERDICTS = (stats.HOLDS, stats.FAILS, stats.UNDECIDED, NOT_RUN)
PLURAL = {stats.HOLDS: "hold", stats.FAILS: "do not hold"}
MIXED = "mixed"
LEADS = {
    stats.HOLDS: "Holds wherever tested",
    stats.FAILS: "Does not hold anywhere",
    stats.UNDECIDED: "Undecided everywhere",
    NOT_RUN: "Not run",
    MIXED: "Differs between models or parts",
}


def title(study: Study) -> str:
    """The title of the report and of the browser tab."""
    return f"SGPO benchmark suite: {study.profile} profile"


def report_blocks(
    study: Study,
    content: Mapping[Artefact, Made],
    missing: Sequence,
    commands: Sequence[str],
) -> list[Block]:
    """The whole report.

    Args:
        content: what was made, in the order of the report.
        missing: ``build.MissingCell`` entries.
        commands: what makes the missing runs.
    """
    shown = _first_page(content, missing)
    found = claims.evaluate(study)
    blocks: list[Block] = [
        Heading(1, title(study)),
        Paragraph(standing_note(study.profile), strong=True),
        Heading(2, "What was asked", "asked"),
        Paragraph(question(study)),
        Heading(2, "What was found", "found"),
        *(Paragraph(text) for text in findings(study, found)),
        Bullets(tuple(rankings(study))),
    ]
    blocks += _sections({a: made for a, made in content.items() if a.name in shown})
    blocks += [
        Heading(2, "Each claim in detail", "claims-detail"),
        *claims_page.detail_blocks(study, found),
    ]
    blocks += _sections({a: made for a, made in content.items() if a.name not in shown})
    blocks += missing_section(missing, commands)
    return blocks + run_list(study)


def _sections(content: Mapping[Artefact, Made]) -> list[Block]:
    return [
        block
        for artefact, made in content.items()
        for block in (Heading(2, artefact.title, artefact.name), *made.blocks)
    ]


def _first_page(content: Mapping[Artefact, Made], missing: Sequence) -> set[str]:
    """Names of the artefacts of the first page: the claims and three figures."""
    names = {artefact.name for artefact in content}
    empty = {name for cell in missing for name in cell.artefacts}
    complete = [name for name in FIRST_FIGURES if name in names and name not in empty]
    partial = [name for name in FIRST_FIGURES if name in names and name in empty]
    return {claims_page.CLAIMS.name, *(complete + partial)[:NUM_FIRST_FIGURES]}


def question(study: Study) -> str:
    labels = [study.model(key).label for key in accuracy.models(study)]
    seeds = ", ".join(str(seed) for seed in study.seeds)
    return (
        f"Does strategy-guided policy optimisation (SGPO), which distils a strong model's "
        f"strategies into a weaker one by a token-level KL beside GRPO, beat SFT+GRPO, LUFFY and "
        f"HPT when all start from the same warm-up checkpoint and draw the same number of "
        f"samples, and do the paper's observations about it hold? Models: "
        f"{', '.join(labels) or NOT_RUN}; seeds {seeds}; benchmarks "
        f"{', '.join(b.label for b in study.benchmarks)}."
    )


def findings(study: Study, found: Sequence[Verdict]) -> list[str]:
    """Paragraphs made from the numbers: the main comparison, the claims of the paper and those
    past it by verdict, and how far the study can be trusted."""
    texts = [headline(study, found)]
    for past, lead in ((False, "The paper's claims"), (True, "Past the paper")):
        text = verdict_text([c for c in found if c.past is past])
        if text:
            texts.append(f"{lead}: {text}")
    return [*texts, f"{diverged(study)} {regime_sentence(study)}".rstrip()]


def headline(study: Study, found: Sequence[Verdict]) -> str:
    """Whether SGPO is the best row of each model, in one sentence or two."""
    tests = [c for c in found if c.key == "best_on_average"]
    counts = {v: [c.subject for c in tests if c.verdict == v] for v in VERDICTS}
    parts = {
        stats.HOLDS: "SGPO is better on average than every other row on",
        stats.FAILS: "SGPO is worse on average than the best other row on",
        stats.UNDECIDED: "SGPO cannot be told from the best other row on",
        NOT_RUN: "the comparison was not run on",
    }
    text = "; ".join(f"{parts[v]} {_join(names)}" for v, names in counts.items() if names)
    return f"{text}." if text else f"The main comparison was {NOT_RUN}."


def verdict_text(members: Sequence[Verdict]) -> str:
    """Statements by what all of their tests say, and the number of tests by verdict."""
    if not members:
        return ""
    groups: dict[str, list[str]] = {}
    for statement, tests in claims_page.by_statement(members).items():
        verdicts = {c.verdict for c in tests}
        if len(verdicts) == 1:
            groups.setdefault(tests[0].verdict, []).append(statement)
        else:
            parts = [(v, sum(c.verdict == v for c in tests)) for v in VERDICTS]
            split = ", ".join(f"{number} {PLURAL.get(v, v)}" for v, number in parts if number)
            groups.setdefault(MIXED, []).append(f"{statement} ({split})")
    counts = [(v, sum(c.verdict == v for c in members)) for v in VERDICTS]
    counted = ", ".join(f"{number} {PLURAL.get(v, v)}" for v, number in counts if number)
    listed = " ".join(
        f"{LEADS[v]}: {'; '.join(groups[v])}." for v in (*VERDICTS, MIXED) if v in groups
    )
    total = "1 test" if len(members) == 1 else f"{len(members)} tests"
    return f"{total} ({counted}). {listed}"


def rankings(study: Study) -> list[str]:
    return [ranking(study, model) for model in accuracy.models(study)]


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def ranking(study: Study, model: str) -> str:
    """The RL methods of a model by average accuracy, and the base they started from."""
    label = study.model(model).label
    scores = {m: estimates.accuracy(study, model, m, AVERAGE) for m in study.rl_methods}
    known = {m: score for m, score in scores.items() if score is not None}
    absent = [study.method_label(m) for m in study.rl_methods if m not in known]
    ordered = sorted(known, key=lambda m: -known[m].mean)
    text = ", ".join(f"{study.method_label(m)} {known[m].mean:.1f}%" for m in ordered)
    base = estimates.accuracy(study, model, "base", AVERAGE)
    start = f" (base {base.mean:.1f}%)" if base else ""
    gap = f"; without a number: {', '.join(absent)}" if absent else ""
    return f"{label}, average accuracy{start}: {text or NOT_RUN}{gap}."


def diverged(study: Study) -> str:
    runs = [run for run in study.runs.values() if run.diverged]
    if not runs:
        return "No run diverged."
    names = "; ".join(f"{r.cell.run_id} ({r.diverged_reason or 'no reason'})" for r in runs)
    return f"Diverged and kept in the tables: {names}."


def regime_sentence(study: Study) -> str:
    if not is_miniature(study.profile):
        return ""
    measured = conditions(study)
    if not measured:
        return f"The regime of the miniature world was {NOT_RUN} (sgpo mini check)."
    failed = [f"{c['model']}: {c['condition']}" for c in measured if c["passed"] is False]
    if failed:
        return f"Regime conditions that failed, read the results with care: {'; '.join(failed)}."
    tested = sum(c["passed"] is True for c in measured)
    return f"All {tested} regime conditions with a requirement passed."


def missing_section(missing: Sequence, commands: Sequence[str]) -> list[Block]:
    """What is not run and how to make it; one sentence when nothing is missing."""
    heading = Heading(2, "Not run", "missing")
    if not missing:
        return [heading, Paragraph("Nothing: every planned run of every table and figure exists.")]
    rows = tuple(
        row(
            cell.run_id or "not planned",
            cell.model,
            cell.method,
            "" if cell.seed is None else str(cell.seed),
            cell.reason,
            ", ".join(cell.artefacts),
        )
        for cell in missing
    )
    header = ("Run", "Model", "Method", "Seed", "State", "Needed by")
    note = "Runs without which a cell says so; the commands below make them."
    return [heading, Table(header=header, rows=rows, caption=note), Code("\n".join(commands))]


def run_list(study: Study) -> list[Block]:
    """Every run behind the numbers, and the environments they ran in."""
    environments: dict[str, str] = {}
    rows, anchors, seen = [], [], set()
    for cell in study.cells:
        group = f"runs-{cell.model}-{cell.method}"
        anchors.append("" if group in seen else group)
        seen.add(group)
        rows.append(_run_row(study, study.runs.get(cell.run_id), cell, environments))
    listing = Table(
        header=("Run", "Model", "Method", "Seed", "State", "Config hash", "Environment"),
        rows=tuple(rows) or (row(*[NOT_RUN] * 7),),
        caption="Every planned run. Its directory runs/<run> holds config, environment, metrics, "
        "result and verdicts.",
        row_anchors=tuple(anchors) if rows else (),
    )
    described = [json.loads(text) for text in environments]
    places = Table(
        header=("Environment", "Machine", "CPU", "Cores", "Python", "Commit", "Packages"),
        rows=tuple(
            _environment_row(name, environment)
            for name, environment in zip(environments.values(), described, strict=True)
        )
        or (row(*[NOT_RUN] * 7),),
        caption="Where the runs were made.",
        row_anchors=tuple(f"environment-{name}" for name in environments.values()),
    )
    return [Heading(2, "Runs", "runs"), listing, Heading(3, "Environments"), places]


def _run_row(study: Study, run: Run | None, cell, environments: dict[str, str]):
    seed = "all" if cell.seed is None else str(cell.seed)
    head = (cell.run_id, study.model(cell.model).label, study.method_label(cell.method), seed)
    if run is None:
        return row(*head, study.why_missing(cell, scored=False) or NOT_RUN, "", "")
    state = run.status
    if run.diverged:
        state += f" †: {run.diverged_reason or 'no reason stored'}"
    elif study.why_missing(cell, scored=True):
        state += f", {study.why_missing(cell, scored=True)}"
    canonical = json.dumps(run.environment, sort_keys=True)
    name = environments.setdefault(canonical, f"E{len(environments) + 1}")
    return row(*head, state, run.config_hash, TextCell(name, link=f"environment-{name}"))


def _environment_row(name: str, environment: dict[str, Any]):
    packages = environment.get("packages", {})
    listed = ", ".join(f"{package} {version}" for package, version in sorted(packages.items()))
    stored = {name: str(value) for name, value in environment.items() if value is not None}
    if "git_commit" in stored:
        changed = " with local changes" if environment.get("git_dirty") else ""
        stored["git_commit"] = stored["git_commit"][:12] + changed
    names = ("machine", "cpu", "cores", "python", "git_commit")
    values = [stored.get(key, "not recorded") for key in names]
    return row(name, *values, listed or "not recorded")


# The README's block of results --------------------------------------------------------------------

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def results_block(study: Study) -> str:
    """Markdown of the README's block: averages, how many claims hold, and where the rest is."""
    papers = [v for v in claims.evaluate(study) if not v.past]
    counts = [(v, sum(c.verdict == v for c in papers)) for v in VERDICTS]
    counted = ", ".join(f"{number} {PLURAL.get(v, v)}" for v, number in counts if number)
    parts = [
        Paragraph(
            f"Average over the four mini benchmarks in percent, {len(study.seeds)} seeds, mean "
            "and 95% interval (seeds and problems):"
        ),
        _averages(study),
        Paragraph(
            f"The paper's claims as {len(papers)} tests: {counted}, each with its effect and "
            "interval in [CLAIMS.md](results/mini/CLAIMS.md). Tables, figures and the run behind "
            "each number: [REPORT.md](results/mini/REPORT.md)."
        ),
    ]
    return to_markdown(parts).strip() + "\n"


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
