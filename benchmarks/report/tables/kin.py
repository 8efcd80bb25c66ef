"""Comparisons beside the paper's: SGPO among methods of the same idea, and what its mask does to
direct SFT. Rows model x method, with each row's paired difference to SGPO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.report import estimates
from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables import table1
from benchmarks.report.tables.ablations import REFERENCE, difference_text
from benchmarks.report.tables.write import write_table
from benchmarks.store import experiments
from benchmarks.store.records import NOT_RUN, Study


@dataclass(frozen=True)
class ComparisonTable:
    """One table as an artefact of the report, named like the module attributes it stands for.

    ``ROWS``: (method, label), SGPO among them. ``PLANNED_BY``: a method without which the study
    does not have the table at all. ``MODELS``: None for those of Table 1. ``ABOUT``: what the
    table is for, in the caption.
    """

    NAME: str
    TITLE: str
    ROWS: tuple[tuple[str, str], ...]
    PLANNED_BY: str
    ABOUT: str
    MODELS: tuple[str, ...] | None = None
    USES: Literal["scores"] = "scores"

    def models(self, study: Study) -> list[str]:
        """Models on which the table's own method is planned."""
        keys = table1.models(study) if self.MODELS is None else list(self.MODELS)
        return [key for key in keys if study.cells_of(key, self.PLANNED_BY)]

    def needs(self, study: Study) -> list[tuple[str, str]]:
        return [(model, method) for model in self.models(study) for method, _ in self.ROWS]

    def build(self, study: Study, out_dir: Path) -> list[Path]:
        """Writes tables/NAME.{md,csv,tex}."""
        return write_table(
            out_dir / "tables" / self.NAME,
            self.table(study),
            note=standing_note(study.profile),
            records=self.records(study),
        )

    def blocks(self, study: Study, out_dir: Path) -> list[Block]:
        return [self.table(study)]

    def table(self, study: Study) -> Table:
        """Rows model x method, columns the benchmarks, their mean, its difference to SGPO's."""
        columns = [b.key for b in study.benchmarks] + [AVERAGE]
        rows = []
        for model in self.models(study):
            for method, label in self.ROWS:
                texts = [table1.cell_text(study, model, method, c) for c in columns]
                texts.append(difference_text(study, model, method))
                link = f"runs-{model}-{method}" if study.cells_of(model, method) else ""
                cells = (TextCell(text, link=link) for text in texts)
                rows.append(row(study.model(model).label, label, *cells))
        labels = (b.label for b in study.benchmarks)
        return Table(
            header=("Model", "Method", *labels, "Average", "Difference to SGPO"),
            rows=tuple(rows) or (row(*[NOT_RUN] * (len(columns) + 3)),),
            caption=self.caption(study),
            numeric=frozenset(range(2, len(columns) + 3)),
        )

    def caption(self, study: Study) -> str:
        counts = sorted({len(study.cells_of(*need)) for need in self.needs(study)} - {0})
        seeds = " or ".join(map(str, counts)) or "no"
        return (
            f"{self.TITLE} ({study.profile} profile). {self.ABOUT} Accuracy in percent, mean and "
            f"95% interval over {seeds} seeds and the problems. Difference: average minus SGPO's "
            f"in points, paired over seeds and problems. {study.resamples.num_draws} bootstrap "
            f'draws. †: a run diverged and is not dropped. "{NOT_RUN}": a planned run is missing; '
            f"made by: {study.command(self.NAME)}"
        )

    def records(self, study: Study) -> list[dict[str, object]]:
        """Table 1's long form for these rows, then one record a row for the difference."""
        needs = self.needs(study)
        if not needs:
            return [{"model": NOT_RUN, "method": method} for method, _ in self.ROWS]
        entries = table1.records(study, needs)
        averages = [dict(entry) for entry in entries if entry["benchmark"] == AVERAGE]
        for entry in averages:
            model, method = str(entry["model"]), str(entry["method"])
            score = estimates.gain(study, model, method, REFERENCE)
            interval = score.interval if score else None
            entry |= {
                "benchmark": "difference_to_sgpo",
                "mean": round(score.mean, 6) if score else NOT_RUN,
                "ci_low": round(interval.low, 6) if interval else NOT_RUN,
                "ci_high": round(interval.high, 6) if interval else NOT_RUN,
                "num_seeds": score.num_seeds if score else 0,
                "status": entry["status"] if score else NOT_RUN,
                "run_ids": " ".join(dict.fromkeys(score.run_ids)) if score else NOT_RUN,
            }
        return entries + averages


KIN = ComparisonTable(
    "kin",
    "Past the paper: baselines of the same idea",
    (
        ("grpo", "SFT+GRPO"),
        ("hpt", "HPT"),
        ("luffy", "LUFFY"),
        ("srft", "SRFT (arXiv 2506.19767)"),
        ("opsd", "On-policy self-distillation (arXiv 2601.20802, 2601.18734)"),
        (REFERENCE, "SGPO"),
    ),
    PLANNED_BY="opsd",
    ABOUT="SRFT adds imitation to reinforcement in one stage, weighted by entropy; on-policy "
    "self-distillation moves the policy, on its own samples, towards itself with the expert's "
    "solution or strategy in view. Both had as many tuning trials as every other method.",
)
MASK = ComparisonTable(
    "mask",
    "Past the paper: is it the mask that separates KL and direct SFT?",
    (
        (REFERENCE, "KL, masked above delta=1 (SGPO)"),
        ("sgpo_no_clip", "KL, no mask"),
        ("sgpo_nll_masked", "Direct SFT, masked as the KL"),
        ("sgpo_nll", "Direct SFT, no mask"),
    ),
    PLANNED_BY="sgpo_nll_masked",
    ABOUT="Table 3 changes two things at once: the KL of SGPO leaves out tokens above delta, "
    "direct SFT leaves out none. Here loss and mask are varied one at a time.",
    MODELS=experiments.MASK_MODELS,
)
