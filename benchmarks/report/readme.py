"""The README's block of results, generated from stored runs so that it cannot drift from them.

``python -m benchmarks.report.readme`` rewrites the block; a test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import estimates
from benchmarks.report.claims import evaluate
from benchmarks.report.document import Paragraph, Table, row, to_markdown
from benchmarks.report.tables import table1
from benchmarks.report.tables.claims_table import caveats, summary_tables
from benchmarks.store.load import load_study
from benchmarks.store.records import Study
from sgpo.core.files import write_text

PAGES = "results/mini"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def results_block(study: Study) -> str:
    """Markdown between the markers: averages, claims beside the paper's, and where they are."""
    found = evaluate(study)
    parts = [
        Paragraph(
            f"Average over the four mini benchmarks in percent, {len(study.seeds)} seeds, mean "
            "and 95% interval (seeds and problems). Details, figures and the run behind each "
            "number: [results/mini/REPORT.md](results/mini/REPORT.md)."
        ),
        _averages(study),
        *summary_tables(study, found),
        Paragraph(caveats(study, found)),
    ]
    text = to_markdown(parts).strip() + "\n"
    return text.replace("](#runs-", f"]({PAGES}/REPORT.md#runs-").replace(
        "](#claim-", f"]({PAGES}/CLAIMS.md#claim-"
    )


def _averages(study: Study) -> Table:
    models = table1.models(study)
    rows = [
        row(
            study.method_label(method),
            *(table1.cell_text(study, model, method, estimates.AVERAGE) for model in models),
        )
        for method in study.method_order
    ]
    return Table(
        header=("Method", *(study.model(m).label for m in models)), rows=tuple(rows), caption=""
    )


def with_block(readme: str, block: str) -> str:
    """``readme`` with the text between the markers replaced."""
    head, _, rest = readme.partition(BEGIN)
    _, marker, tail = rest.partition(END)
    if not marker:
        raise ValueError(f"README.md: holds no {BEGIN} ... {END}")
    return f"{head}{BEGIN}\n{block}{END}{tail}"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    study = load_study(root / "results" / "mini")
    readme = (root / "README.md").read_text()
    write_text(root / "README.md", with_block(readme, results_block(study)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
