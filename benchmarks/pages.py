"""The text of the report: the first page with its generated sentences, and the run list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks import claims, estimates
from benchmarks.claims import Claim
from benchmarks.document import (
    Block,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Table,
    TextCell,
    row,
    standing_note,
)
from benchmarks.estimates import AVERAGE
from benchmarks.store import NOT_RUN, Run, Study
from benchmarks.tables import claims_table, regime, table1

FIRST_PAGE = ("claims", "fig4", "scaling", "curves")


def title(study: Study) -> str:
    """The title of the report and of the browser tab."""
    return f"SGPO benchmark suite: {study.profile} profile"


def report_blocks(
    study: Study, content: Sequence[tuple[Any, list[Block]]], missing: Sequence, commands
) -> list[Block]:
    """The whole report.

    Args:
        content: artefact modules with their blocks, in order.
        missing: ``report.MissingCell`` entries.
        commands: what makes the missing runs.
    """
    front = [pair for pair in content if pair[0].NAME in FIRST_PAGE]
    details = [pair for pair in content if pair[0].NAME not in FIRST_PAGE]
    blocks: list[Block] = [
        Heading(1, title(study)),
        Paragraph(standing_note(study.profile), strong=True),
        Heading(2, "What was asked", "asked"),
        Paragraph(question(study)),
        Heading(2, "What was found", "found"),
        Bullets(tuple(findings(study))),
    ]
    for module, body in front + details:
        blocks += [Heading(2, module.TITLE, module.NAME), *body]
    blocks += missing_section(missing, commands)
    return blocks + run_list(study)


def question(study: Study) -> str:
    models = [study.model(key).label for key in table1.models(study)]
    seeds = ", ".join(str(seed) for seed in study.seeds)
    return (
        f"Does strategy-guided policy optimisation (SGPO) beat SFT+GRPO, LUFFY and HPT when all "
        f"start from the same warm-up checkpoint and draw the same number of samples, and do the "
        f"paper's observations about it hold? Models: {', '.join(models) or NOT_RUN}; seeds "
        f"{seeds}; benchmarks {', '.join(b.label for b in study.benchmarks)}."
    )


def findings(study: Study) -> list[str]:
    """Sentences made from the numbers: the ranking of each model, each claim, the regime."""
    sentences = [ranking(study, model) for model in table1.models(study)]
    groups: dict[str, list[Claim]] = {}
    for claim in claims.evaluate(study):
        groups.setdefault(claim.statement, []).append(claim)
    for statement, members in groups.items():
        parts = [f"{c.verdict} on {c.subject} ({claims_table.effect_text(c)})" for c in members]
        parts = [part.replace(f" ({NOT_RUN})", "") for part in parts]
        sentences.append(f"{statement}: {'; '.join(parts)}.")
    return sentences + [diverged(study), regime_sentence(study)]


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
    measured = regime.conditions(study)
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
