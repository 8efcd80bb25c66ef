"""Nothing from a results directory or a page of it acts: names stay inside, texts stay text."""

from __future__ import annotations

import json

import pytest
from html_tags import Tags
from synthetic_study import write_study

from benchmarks.cli import main
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
    "name", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a/../..", "a\0b"]
)
def test_a_name_from_data_cannot_leave_its_directory(tmp_path, name):
    with pytest.raises(ValueError, match="is no path below|names .* itself"):
        inside(tmp_path, name)


def test_a_name_cannot_leave_by_a_link(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to("/etc")
    with pytest.raises(ValueError):
        inside(tmp_path / "runs", "link/passwd")
    assert inside(tmp_path / "runs", "a/b..c") == tmp_path / "runs" / "a" / "b..c"


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


def test_a_report_of_hostile_runs_is_harmless(tmp_path):
    root = write_study(tmp_path / "mini")
    runs = sorted(p for p in (root / "runs").iterdir() if "-grpo-" in p.name)
    for run, attack in zip(runs, ATTACKS, strict=False):
        result = json.loads((run / "result.json").read_text())
        result |= {"status": "diverged", "diverged_reason": attack}
        (run / "result.json").write_text(json.dumps(result))
        environment = json.loads((run / "environment.json").read_text())
        environment |= {"cpu": attack, "machine": attack}
        (run / "environment.json").write_text(json.dumps(environment))
    study = json.loads((root / "study.json").read_text())
    study["models"][0]["label"] = ATTACKS[0]
    study["methods"][3]["label"] = ATTACKS[1]
    (root / "study.json").write_text(json.dumps(study))
    build(root)
    page = (root / "report.html").read_text()
    assert unsafe(page) == []
    assert ATTACKS[0] in Tags(page).text and ATTACKS[1] in Tags(page).text
