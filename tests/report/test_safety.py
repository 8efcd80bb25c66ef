"""Nothing from a results directory or a page of it acts: names stay inside, texts stay text."""

from __future__ import annotations

import json

import pytest
from html_tags import Tags
from synthetic_study import change, save_empty

from benchmarks.cli import main
from benchmarks.report import artefact
from benchmarks.report.build import build
from benchmarks.report.document import (
    Bullets,
    Cell,
    Code,
    Heading,
    Image,
    Paragraph,
    Table,
    to_markdown,
)
from benchmarks.report.html import to_html
from sgpo.core.files import inside


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\0b", "link/passwd"]
)
def test_a_name_from_data_cannot_leave_its_directory(tmp_path, name):
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ValueError):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b..c") == tmp_path / "a" / "b..c"


def test_a_hostile_study_file_is_refused_in_one_line(tmp_path, capsys):
    root = tmp_path / "mini"
    root.mkdir()
    (root / "study.json").write_text(json.dumps({"cells": [{"run_id": "../../outside"}]}))
    assert main(["status", "--out", str(root)]) == 2
    error = capsys.readouterr().err
    assert "'../../outside': is no path below" in error and error.count("\n") == 1


ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg onload=alert(1)>",
    "</td></tr></table><iframe src=//x>",
    "[click](javascript:alert(1))",
    "&lt;script&gt;",
    "\\boxed{<b>7</b>}",
    "a | **b** `c`",
)


def unsafe(html: str) -> list:
    return [
        (tag, attributes)
        for tag, attributes in Tags(html).elements
        if tag in ("script", "iframe", "svg", "object", "embed", "form")
        or any(key.startswith("on") for key in attributes)
        or not str(attributes.get("href", "#")).startswith("#")
        or not str(attributes.get("src", "data:image/png")).startswith("data:image/png")
    ]


def test_the_probe_sees_an_attack():
    assert all(unsafe(f"<p>{a}</p>") for a in ATTACKS[:2])


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_in_any_block_becomes_markup(attack, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    cells = (Cell(attack), Cell(attack, bold=True), Cell(attack, link=attack))
    blocks = [
        Heading(2, attack, "anchor"),
        Heading(3, "plain", attack),
        Paragraph(attack, strong=True),
        Bullets((attack,)),
        Code(attack),
        Image(tmp_path / "x.png", "x.png", attack, attack),
        Table(header=(attack,) * 3, rows=(cells,), caption=attack, row_anchors=(attack,)),
    ]
    html = to_html(blocks, title=attack)
    assert unsafe(html) == []
    assert Tags(html).text.count(attack) >= 9  # shown as it is, in every place
    markdown = to_markdown([b for b in blocks if not isinstance(b, Code)])
    for opening in ("<script", "<img", "<svg", "<iframe", "<b"):
        assert opening not in markdown.replace("\\<", "")
    rows = [line.replace(r"\|", "") for line in markdown.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4}  # none opens a column


def test_a_report_of_hostile_runs_is_harmless(study, monkeypatch):
    monkeypatch.setattr(artefact, "save", save_empty)
    runs = sorted(p for p in (study / "runs").iterdir() if "-grpo-" in p.name)
    for run, attack in zip(runs, ATTACKS, strict=False):
        told = {"status": "diverged", "diverged_reason": attack}
        change(run / "result.json", lambda r, told=told: r.update(told))
        told = {"cpu": attack, "machine": attack}
        change(run / "environment.json", lambda e, told=told: e.update(told))

    def relabel(plan: dict) -> None:
        plan["models"][0]["label"] = ATTACKS[0]
        plan["methods"][3]["label"] = ATTACKS[1]

    change(study / "study.json", relabel)
    build(study)
    page = (study / "report.html").read_text()
    assert unsafe(page) == []
    assert ATTACKS[0] in Tags(page).text and ATTACKS[1] in Tags(page).text
