"""The pages: complete, linked, readable on a phone; nothing of a run or a study acts on them."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from synthetic_study import change, save_empty

from benchmarks.report import artefact, document, pages
from benchmarks.report import build as report
from benchmarks.report.document import Cell, Table, to_markdown
from benchmarks.report.html import to_html
from benchmarks.store.load import load_study
from sgpo.core.files import inside


@pytest.fixture(scope="module")
def page(variant_study, tmp_path_factory) -> Path:
    """report.html of all figures, each a picture of one pixel, beside its Markdown."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(variant_study[0] / "REPORT.md", folder)
    text = (folder / "REPORT.md").read_text()
    (folder / "figures").mkdir()
    for source in re.findall(r"\]\((figures/[^)]+)\)", text):
        Image.new("RGB", (1, 1)).save(folder / source)
    (folder / "report.html").write_text(to_html(text, folder, title="a title"))
    return folder / "report.html"


def test_html_is_self_contained_and_every_link_has_a_target(page):
    text = page.read_text()
    found = Tags(text)
    ids, links, sources = map(found.values, ("id", "href", "src"))
    assert len(ids) == len(set(ids))
    assert links and set(links) <= {f"#{name}" for name in ids}
    assert len(sources) == len([*(page.parent / "figures").iterdir()]) > 6
    assert {"details", "nav", "figure"} <= found.names() and "color-scheme: light dark" in text
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & found.names()
    assert "url(" not in text and "@import" not in text and 'name="viewport"' in text
    said = found.text
    assert said.index("no evidence about 7B models") < said.index("What was found")
    assert "test <machine> & co" in said  # shown as text, so it was escaped


def test_the_page_folds_fits_a_phone_and_has_a_dark_side(page, browser):
    grounds = set()
    for width, scheme in ((1280, "light"), (400, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        grounds.add(browser.execute_script("return getComputedStyle(document.body).background"))
    assert len(grounds) == 2
    assert browser.find_element("id", "runs").get_attribute("open") is None
    browser.get(f"{page.as_uri()}#runs-qwen-m-sgpo")  # a link into a closed part opens it
    browser.refresh()
    assert browser.find_element("id", "runs").get_attribute("open") is not None


def test_markdown_is_in_order_short_before_its_appendix_and_its_links_have_targets(variant_study):
    root, _ = variant_study
    text, claims = ((root / name).read_text() for name in ("REPORT.md", "CLAIMS.md"))
    anchors = [set(re.findall(r'<a id="([^"]+)">', page)) for page in (text, claims)]
    links = {
        name: set(re.findall(rf"\]\({name}#([^)]+)\)", text + claims))
        for name in ("CLAIMS.md", "REPORT.md")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) | links["REPORT.md"] <= anchors[0]
    assert links["CLAIMS.md"] and links["REPORT.md"] and links["CLAIMS.md"] <= anchors[1]
    assert all("no evidence about 7B models" in page.splitlines()[2] for page in (text, claims))
    sections = re.findall(r"(?m)^## (.*)$", text)
    assert sections == ["What was found", "The world", "Table 1: main results", "Claims", "Why",
                        "Where SGPO helps", "What this cannot say", "Appendix"]  # fmt: skip
    main_part, appendix = text.split("\n## Appendix")
    words = re.sub(r"\]\([^)]*\)|<[^>]*>", "", main_part)
    assert len(re.findall(r"\w[\w.,'+-]*", words)) <= 2500
    assert "Find the Cedra pair: 314" in main_part  # the problem that is shown
    for found in report.chosen_artefacts(load_study(root)):
        if found.draw:
            assert text.count(f"(figures/{found.name}.png)") == 1
    assert text.count("| SGPO is best") + text.count("| [SGPO is best") == 1
    assert "### Table 2" in appendix and "### Runs" in appendix


# Nothing acts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\0b", "link/passwd"]
)
def test_a_name_from_data_cannot_leave_its_directory(tmp_path, name):
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ValueError):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b..c") == tmp_path / "a" / "b..c"


def test_a_hostile_study_file_is_refused_in_one_line(tmp_path, refused):
    (tmp_path / "study.json").write_text(json.dumps({"cells": [{"run_id": "../../outside"}]}))
    refused(f"status --out {tmp_path}", "'../../outside': is no path below")


ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg onload=alert(1)>",
    "</td></tr></table><iframe src=//x>",
    "[click](javascript:alert(1))",
    "[click](https://x.example) ![x](https://x.example/y.png)",
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


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_in_any_block_becomes_markup(attack, tmp_path):
    assert unsafe(f"<p>{ATTACKS[0]}</p>")  # the probe sees an attack
    (tmp_path / "x.png").write_bytes(b"")
    cells = (Cell(attack), Cell(attack, bold=True), Cell(attack, link=attack))
    blocks = [
        document.heading(2, attack, "anchor"),
        document.heading(3, "plain", attack),
        document.paragraph(attack),
        document.bullets([attack]),
        document.image("x.png", attack, attack),
        Table(header=(attack,) * 3, rows=(cells,), caption=attack, row_anchors=(attack,)),
    ]
    html = to_html(to_markdown([*blocks, document.code(attack)]), tmp_path, title=attack)
    assert unsafe(html) == []
    assert Tags(html).text.count(attack) >= 9  # shown as it is, in every place
    markdown = to_markdown(blocks)
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
    report.build(study)
    page = (study / "report.html").read_text()
    assert unsafe(page) == []
    assert ATTACKS[0] in Tags(page).text and ATTACKS[1] in Tags(page).text
    assert pages.title(load_study(study)) in Tags(page).text


# What a browser would see -------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def names(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] for _, found in self.elements if attribute in found]
