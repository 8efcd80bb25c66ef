"""Does it matter whose grader it is? Accuracy under ours, plain Math-Verify and exact text, what
they disagree on, and the claims under each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import claims, estimates
from benchmarks.report.artefact import Made, described, nothing
from benchmarks.report.document import (
    Block,
    Table,
    bullets,
    csv_text,
    frame,
    paragraph,
    row,
    standing_note,
    to_markdown,
)
from benchmarks.report.estimates import AVERAGE
from benchmarks.store.records import GRADERS_FILE, NOT_RUN, Run, Study, StudyError, read_object
from sgpo.core.files import write_text

LABELS = {"ours": "ours", "stock": "Math-Verify", "exact": "exact text"}


def graded(study: Study) -> dict[str, Study]:
    """Grader -> the study with its verdicts, over the runs that all graders judged; empty where
    none did.

    Raises:
        StudyError: graders.json is about other samples than the study's.
    """
    path = study.root / GRADERS_FILE
    found = read_object(path)["runs"] if path.exists() else {}
    runs = {run_id: run for run_id, run in study.runs.items() if run_id in found}

    def judged(run_id: str, grader: str) -> Run:
        run = runs[run_id]
        correct = {
            key: _flipped(study, run, key, differ.get("samples"), differ.get(grader, []))
            for key, differ in found[run_id].items()
        }
        return replace(run, budgets={1.0: correct}, answers={})

    others = {g: {run_id: judged(run_id, g) for run_id in runs} for g in ("stock", "exact")}
    return {g: replace(study, runs=r) for g, r in ({"ours": runs} | others).items()} if runs else {}


def _flipped(
    study: Study, run: Run, key: str, samples: int | None, places: Sequence[int]
) -> np.ndarray:
    """Our verdicts [N, K] of a run on a benchmark, those at ``places`` of N * K turned round."""
    ours = run.correct.get(key, np.zeros((0, 0), dtype=bool))
    if ours.size != samples or not set(places) <= set(range(ours.size)):
        raise StudyError(
            f"{GRADERS_FILE}, {run.cell.run_id}, {key}: {samples} samples are judged, the study "
            f"has {ours.size}; run {_command(study)} again"
        )
    return ours ^ np.isin(np.arange(samples), places).reshape(ours.shape)


def _command(study: Study) -> str:
    return f"sgpo grade results/{study.root.resolve().name} --grader all"


def rows(study: Study, studies: Mapping[str, Study]) -> pd.DataFrame:
    """Accuracy in percent of every method on every benchmark under each grader."""
    found = []
    for model, method in dict.fromkeys((c.model, c.method) for c in study.cells):
        for key in (*(b.key for b in study.benchmarks), AVERAGE):
            for grader in LABELS:
                score = None
                if grader in studies:
                    score = estimates.accuracy(studies[grader], model, method, key)
                place = {"model": model, "method": method, "benchmark": key, "grader": grader}
                found.append(place | {"mean": round(score.mean, 6) if score else NOT_RUN})
    return frame(found)


def _accuracy_table(study: Study, found: pd.DataFrame) -> Table:
    labels = {b.key: b.label for b in study.benchmarks} | {AVERAGE: "Average"}
    lines = []
    for (model, method), rows in found.groupby(["model", "method"], sort=False):
        means = rows.pivot(index="benchmark", columns="grader", values="mean")
        if not (means == NOT_RUN).any(axis=None):
            cells = means.loc[[*labels], [*LABELS]].to_numpy()
            texts = (" / ".join(f"{value:.1f}" for value in cell) for cell in cells)
            lines.append(row(study.model(model).label, study.method_label(method), *texts))
    order = " / ".join(LABELS.values())
    return Table(
        ("Model", "Method", *labels.values()),
        tuple(lines) or (row(*[NOT_RUN] * (2 + len(labels))),),
        caption=f"Accuracy in percent under three graders: {order}.",
        numeric=frozenset(range(2, 2 + len(labels))),
    )


def _disagreements(study: Study) -> Table:
    lines = []
    for kind in read_object(study.root / GRADERS_FILE)["disagreements"]:
        examples = "; ".join(
            f'gold {e["gold"]}, answer {e["answer"]} in "{" ".join(e["ending"].split())}"'
            for e in kind["examples"]
        )
        right = "ours" if kind["ours_right"] else LABELS[kind["grader"]]
        label = LABELS[kind["grader"]]
        lines.append(row(label, right, kind["kind"], str(kind["count"]), examples))
    return Table(
        ("Grader", "Says right", "Kind (the rule by which ours decided)", "Samples", "Examples"),
        tuple(lines) or (row("both", "", "no disagreement", "0", ""),),
        caption="Verdicts that differ from ours, by kind.",
        numeric=frozenset({3}),
    )


def _changes(studies: Mapping[str, Study]) -> list[Block]:
    """Claims whose verdict another grader changes."""
    words = {
        grader: {(v.statement, v.subject): v for v in claims.evaluate(found)}
        for grader, found in studies.items()
    }
    lines = []
    for place, ours in words["ours"].items():
        for grader in ("stock", "exact"):
            theirs = words[grader].get(place, ours)  # no effect: it reads other budgets, too
            if theirs.effect is not None and theirs.verdict != ours.verdict:
                lines.append(
                    f"{place[0]}, {place[1]}: {ours.verdict} ({ours.text()}) under ours, "
                    f"{theirs.verdict} ({theirs.text()}) under {LABELS[grader]}"
                )
    if not lines:
        return [paragraph(f"No verdict of {len(words['ours'])} tests changes with the grader.")]
    return [paragraph("Verdicts that change with the grader:"), bullets(lines)]


def make(study: Study, out_dir: Path) -> Made:
    """tables/graders.md and .csv."""
    studies = graded(study)
    found = rows(study, studies)
    if studies:
        blocks = [_accuracy_table(study, found), _disagreements(study), *_changes(studies)]
    else:  # the same words on the machine that has the texts and in a clone that has not
        command = f"Other graders: {NOT_RUN}; made where all texts are by: {_command(study)}"
        blocks = [paragraph(command)]
    text = to_markdown([paragraph(standing_note(study.miniature)), *blocks])
    stem = out_dir / "tables" / "graders"
    paths = [
        write_text(stem.with_suffix(".md"), text),
        write_text(stem.with_suffix(".csv"), csv_text(found)),
    ]
    return Made(paths, blocks)


GRADERS = described("graders", nothing, own=make)
