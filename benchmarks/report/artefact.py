"""One table or figure of the report as a value, and how its files and its blocks are made.

Every artefact is asked once a build: what it draws or counts goes to its files and to the page.
A new one is an ``Artefact`` in a module of ``tables`` or ``figures`` and a place in
``build.ARTEFACTS``. What each says of itself stands in ``artefacts.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report.document import Block, Table, image, standing_note, write_table
from benchmarks.report.figures.axes import save
from benchmarks.store.records import NOT_RUN, Study

Need = tuple[str, str]  # model, method

WORDS = tomllib.loads(Path(__file__).with_name("artefacts.toml").read_text(encoding="utf-8"))
ABSENT = "{title}: {not_run}. Made by: {command}"
PRINTED = "Numbers as printed in arXiv 2606.24064 (v1), {}; none of them is ours."


def nothing(study: Study) -> list[Need]:
    """No run of the grid: what is shown was measured beside it."""
    return []


@dataclass(frozen=True)
class Made:
    """Files that were written, and what the page shows."""

    paths: list[Path]
    blocks: list[Block]


@dataclass(frozen=True)
class Artefact:
    """One table or figure: a figure has ``draw`` and ``alt``, a table ``rows`` and ``table``.

    name: of its files, of its section and in ``--only``.
    uses: "scores" if the runs that it needs must be evaluated, "metrics" if training is enough.
    needs: (model, method) of every run that it reads, all seeds; it is left out of a study that
        plans none of them.
    caption: what is shown, in words.
    draw: the figure. alt: what a reader who cannot see it is told.
    rows: the numbers as a tidy frame, written as CSV; table: how they are shown.
    paper: the paper's own table as (rows, table), which goes to files of its own.
    own: makes everything itself, in place of all these.
    analyses: keys of the analyses that it draws from.
    file: what of the study it is read off besides (a pattern); it is left out without such a file.
    extended: it reads runs of SGPO's variants or of experiments past the paper.
    miniature: only studies on the mini world can have it.
    """

    name: str
    title: str
    uses: Literal["scores", "metrics"]
    needs: Callable[[Study], list[Need]]
    caption: Callable[[Study], str] = lambda study: ""
    draw: Callable[[Study], Figure] | None = None
    alt: str = ""
    rows: Callable[[Study], pd.DataFrame] | None = None
    table: Callable[[Study, pd.DataFrame], Table] | None = None
    paper: Callable[[], tuple[pd.DataFrame, Table]] | None = None
    own: Callable[[Study, Path], Made] | None = None
    analyses: tuple[str, ...] = ()
    file: str = ""
    extended: bool = False
    miniature: bool = False

    def planned(self, study: Study) -> bool:
        """Whether the study plans a run or an analysis that it is made of, and has its file."""
        if self.miniature and not study.miniature:
            return False
        if self.file and not any(study.root.glob(self.file)):
            return False
        if self.needs is nothing and not self.analyses:
            return True
        return bool(self.needs(study)) or any(a.key in self.analyses for a in study.analyses)

    def make(self, study: Study, out_dir: Path, *, figures: bool = True) -> Made:
        """Writes its files below ``out_dir``; without ``figures``, a figure has its block alone."""
        if self.own:
            return self.own(study, out_dir)
        if self.draw:
            shown = image(f"figures/{self.name}.png", self.alt, self.caption(study))
            stem = out_dir / "figures" / self.name
            return Made(save(self.draw(study), stem) if figures else [], [shown])
        stem, rows = out_dir / "tables" / self.name, self.rows(study)
        table = replace(self.table(study, rows), caption=self.caption(study))
        paths = write_table(stem, table, note=standing_note(study.miniature), rows=rows)
        if not self.paper:
            return Made(paths, [table])
        printed_rows, printed = self.paper()
        note = PRINTED.format(f"Table {self.name.removeprefix('table')}")
        stem = stem.with_name(f"{self.name}_paper")
        paths += write_table(stem, printed, note=note, rows=printed_rows)
        return Made(paths, [table, printed])


def described(
    name: str,
    needs: Callable[[Study], list[Need]],
    known: Callable[[Study], Mapping[str, Any] | None] = lambda study: {},
    caption: str = "",
    **how: Any,
) -> Artefact:
    """The artefact ``name`` of ``artefacts.toml``. ``known``: the names in its caption and what
    they are in a study; None where its data are not there. ``caption``: other than its own."""
    words = WORDS[name]
    present = caption or words.get("caption", "")

    def said(study: Study) -> str:
        found = known(study)
        template = ABSENT if found is None else present
        common = {"title": words["title"], "profile": study.profile, "not_run": NOT_RUN}
        command = study.command(name, needs(study))
        filled = template.format(**common, command=command, **found or {})
        return " ".join(filled.split())

    about = {key: words[key] for key in ("alt", "file", "extended", "miniature") if key in words}
    about |= {"uses": words.get("uses", "scores"), "analyses": tuple(words.get("analyses", ()))}
    return Artefact(name, words["title"], needs=needs, caption=said, **about | how)
