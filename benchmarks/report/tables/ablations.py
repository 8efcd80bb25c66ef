"""Tables 2, 3, 6 and 7: SGPO against its own variants on one model, and the paper's tables beside.

One builder for all of them and for the variants past the paper. As in Table 1, the paper's numbers
stay in files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.report import estimates
from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.tables import table1
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, SGPO_VARIANTS, Run, Study

REFERENCE = "sgpo"
DIFFERENCE = "difference_to_sgpo"
GRPO_NOTE = (
    "w/o strategy distillation is SFT+GRPO of Table 1, with its own tuned learning rate and all "
    "samples autonomous. "
)


def model_of(study: Study) -> str | None:
    """The model that SGPO's variants are planned on; None when the study plans none."""
    planned = {cell.model for cell in study.cells if cell.method in SGPO_VARIANTS}
    return next((model.key for model in study.models if model.key in planned), None)


def gain_over_sgpo(study: Study, model: str, method: str) -> estimates.Score | None:
    """Average accuracy of a row minus SGPO's in points, paired over seeds and problems."""
    return estimates.gain(study, model, method, REFERENCE)


@dataclass(frozen=True)
class AblationTable:
    """One table as an artefact of the report, named like the module attributes it stands for.

    ``ROWS``: (method, label as in the paper), SGPO first. ``PRINTED``: the paper has a table of
    this name.
    """

    NAME: str
    TITLE: str
    ROWS: tuple[tuple[str, str], ...]
    PRINTED: bool = True
    USES: Literal["scores"] = "scores"

    def needs(self, study: Study) -> list[tuple[str, str]]:
        """(model, method) of every row; none where the study plans no variant at all."""
        model = model_of(study)
        return [(model, method) for method, _ in self.ROWS] if model else []

    def build(self, study: Study, out_dir: Path) -> list[Path]:
        """Writes tables/NAME.{md,csv,tex} and, where the paper has it, tables/NAME_paper.*."""
        ours = write_table(
            out_dir / "tables" / self.NAME,
            self.table(study),
            note=standing_note(study.profile),
            records=self.records(study),
        )
        return ours + (table1.write_paper_table(out_dir, self.NAME) if self.PRINTED else [])

    def blocks(self, study: Study, out_dir: Path) -> list[Block]:
        return [self.table(study), *([table1.paper_table(self.NAME)] if self.PRINTED else [])]

    def table(self, study: Study) -> Table:
        """Rows the variants, columns the benchmarks, their mean, and its difference to SGPO's."""
        model = model_of(study)
        columns = [b.key for b in study.benchmarks] + [AVERAGE]
        rows = []
        for method, label in self.ROWS:
            if model is None:
                rows.append(row(label, *[NOT_RUN] * (len(columns) + 1)))
                continue
            texts = [table1.cell_text(study, model, method, c) for c in columns]
            texts.append(difference_text(study, model, method))
            link = f"runs-{model}-{method}" if study.cells_of(model, method) else ""
            rows.append(row(label, *(TextCell(text, link=link) for text in texts)))
        labels = (b.label for b in study.benchmarks)
        return Table(
            header=("Variant", *labels, "Average", "Difference to SGPO"),
            rows=tuple(rows),
            caption=self.caption(study),
            numeric=frozenset(range(1, len(columns) + 2)),
        )

    def caption(self, study: Study) -> str:
        """The model, seeds, sets and protocol of the table, and how the difference is made."""
        model = model_of(study)
        missing = f'"{NOT_RUN}": a planned run is missing; made by: {study.command(self.NAME)}'
        if model is None:
            return f"{self.TITLE} ({study.profile} profile). {missing}"
        sets = "; ".join(f"{b.label} n={b.num_problems}, avg@{b.k}" for b in study.benchmarks)
        counts = {len(study.cells_of(*need)) for need in self.needs(study)} - {0}
        number = " or ".join(str(count) for count in sorted(counts))
        own = GRPO_NOTE if "grpo" in dict(self.ROWS) else ""
        return (
            f"{self.TITLE} ({study.profile} profile), {study.model(model).label}. Accuracy in "
            f"percent, mean and 95% interval over {number} seeds and the problems. {sets}. "
            f"Difference: average minus SGPO's in points, paired over seeds and problems. Every "
            f"variant has the learning rate that was tuned for SGPO as a whole. {own}"
            f"Sampling: {table1.protocol_text(study)}. {study.resamples.num_draws} bootstrap "
            f"draws. †: a run diverged and is not dropped. {missing}"
        )

    def records(self, study: Study) -> list[dict[str, object]]:
        """Table 1's long form for these rows, then one record a row for the difference."""
        if not self.needs(study):
            absent = {"mean": NOT_RUN, "ci_low": NOT_RUN, "ci_high": NOT_RUN}
            return [{"model": NOT_RUN, "method": m, **absent} for m, _ in self.ROWS]
        entries = table1.records(study, self.needs(study))
        averages = [dict(entry) for entry in entries if entry["benchmark"] == AVERAGE]
        for entry in averages:
            model, method = str(entry["model"]), str(entry["method"])
            score = gain_over_sgpo(study, model, method)
            runs = _runs(study, model, method)
            absent = "diverged" if runs else NOT_RUN
            diverged = any(run.diverged for run in runs)
            entry |= {
                "benchmark": DIFFERENCE,
                "mean": round(score.mean, 6) if score else absent,
                "ci_low": round(score.interval.low, 6) if score else absent,
                "ci_high": round(score.interval.high, 6) if score else absent,
                "num_seeds": score.num_seeds if score else 0,
                "status": "diverged" if diverged else ("finished" if score else NOT_RUN),
                "run_ids": " ".join(run.cell.run_id for run in runs) or NOT_RUN,
            }
        return entries + averages


def difference_text(study: Study, model: str, method: str) -> str:
    """ "+0.4 [-1.0, 1.8]" in points, "reference" for SGPO itself, "diverged†" or "not run"."""
    runs = _runs(study, model, method)
    if not runs:
        return NOT_RUN
    if method == REFERENCE:
        return "reference"
    dagger = "†" if any(run.diverged for run in runs) else ""
    score = gain_over_sgpo(study, model, method)
    if score is None:
        return f"diverged{dagger}"
    interval = score.interval
    return f"{interval.mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]{dagger}"


def _runs(study: Study, model: str, method: str) -> tuple[Run, ...]:
    """The runs behind a difference: the row's, then SGPO's; () unless both are complete."""
    methods = dict.fromkeys((method, REFERENCE))
    groups = [study.runs_of(model, m, scored=True) for m in methods]
    return tuple(run for group in groups for run in group) if all(groups) else ()


TABLE2 = AblationTable(
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
)
TABLE3 = AblationTable(
    "table3",
    "Table 3: KL distillation against direct SFT on guided completions",
    ((REFERENCE, "KL distillation"), ("sgpo_nll", "Direct SFT")),
)
TABLE6 = AblationTable(
    "table6",
    "Table 6: direction of the KL",
    ((REFERENCE, "Forward KL"), ("sgpo_reverse", "Reverse KL")),
)
TABLE7 = AblationTable(
    "table7",
    "Table 7: weight of the distillation term",
    (
        (REFERENCE, "Pass-rate-based"),
        ("sgpo_fixed_alpha", "Fixed alpha=1.0"),
        ("sgpo_group_alpha", "Group-advantage"),
    ),
)
BEYOND = AblationTable(
    "beyond",
    "Past the paper: the threshold delta and the selection of Eq. 4",
    (
        (REFERENCE, "SGPO (delta=1, Eq. 4 sums)"),
        ("sgpo_delta0.1", "delta=0.1"),
        ("sgpo_delta0.3", "delta=0.3"),
        ("sgpo_delta3", "delta=3"),
        ("sgpo_no_clip", "delta=inf"),
        ("sgpo_meanlogp", "Eq. 4 with the mean log-probability"),
    ),
    PRINTED=False,
)
TABLES = (TABLE2, TABLE3, TABLE6, TABLE7, BEYOND)
# What a study without variants does not have, beside these tables.
VARIANT_ARTEFACTS = (*(table.NAME for table in TABLES), "delta", "fig2", "fig3",
                     "fig5", "fig6", "table8")  # fmt: skip
