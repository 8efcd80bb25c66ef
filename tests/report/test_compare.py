"""``sgpo compare``: what it selects, what it says of runs without texts, its page in a browser."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import run_dir

from benchmarks.cli import main
from benchmarks.report import curves
from benchmarks.report.compare import compare, page, terminal
from benchmarks.report.mathml import rich
from benchmarks.store.runs import stored_runs
from sgpo.core.types import Problem

LETTERS = {"c": "correct", "w": "wrong", "t": "truncated", "n": "no_answer"}
PROBLEMS = {
    "algebra": [
        Problem("a-0", "Add $1$ and $1$.", "2", strategy="Count on.", kind="sums"),
        Problem("a-1", r"What is $\frac{3}{4}-\frac14$?", r"\frac{1}{2}", kind="fractions"),
        Problem("a-2", "Cost: $5 and $6?", "11", kind="sums"),
    ],
    "other": [Problem("o-0", "<b>Is it</b> 7?", "7")],
}
# Run -> benchmark -> verdict letters of two samples a problem.
RUNS = {
    "first": {"algebra": ["cc", "cw", "ww"], "other": ["tw"]},
    "second": {"algebra": ["ww", "cc", "ww"], "other": ["nw"]},
}
HOSTILE = "</script><img src=x onerror=alert(1)> $\\text{a<b}$ $\\href{javascript:alert(1)}{x}$"


@pytest.fixture
def results(tmp_path) -> Path:
    """Two runs with their texts below results/mine."""
    root = tmp_path / "results" / "mine"
    for name, verdicts in RUNS.items():
        run = root / "runs" / name
        (run / "samples").mkdir(parents=True)
        config = {"profile": "mini", "model": "m", "method": name, "seed": 3}
        (run / "config.json").write_text(json.dumps(config))
        (run / "result.json").write_text("{}")
        entries = {key: {"k": 2, "verdicts": words} for key, words in verdicts.items()}
        (run / "scores.json").write_text(json.dumps({"benchmarks": entries}))
        for key, words in verdicts.items():
            rows = [
                _row(problem, sample, letter)
                for problem, word in zip(PROBLEMS[key], words, strict=True)
                for sample, letter in enumerate(word)
            ]
            text = "\n".join(map(json.dumps, rows)).encode()
            (run / "samples" / f"{key}.jsonl.gz").write_bytes(gzip.compress(text))
    (root / "study.json").write_text("{}")
    return root.parent


def _row(problem: Problem, sample: int, letter: str) -> dict:
    answer = {"c": problem.answer, "w": "999", "t": "5"}.get(letter)
    text = f"We think.\n\\boxed{{{answer}}}" if answer else HOSTILE
    return {"problem_id": problem.id, "sample": sample, "gold": problem.answer, "text": text,
            "num_tokens": 9, "finish_reason": "stop", "reason": LETTERS[letter],
            "correct": letter == "c"}  # fmt: skip


def problems_of(key: str, world: int, files: tuple[str, ...]) -> list[Problem]:
    return PROBLEMS[key]


def chosen(results: Path, **filters) -> list[str]:
    found = compare(["first", "second"], problems_of, results, **filters)
    return [name for _, name in found.chosen]


def test_filters_by_hand(results):
    """Shares of correct samples: first 1, 1/2, 0, 0; second 0, 1, 0, 0."""
    assert chosen(results) == ["a-0", "a-1", "a-2", "o-0"]
    assert chosen(results, only="won") == ["a-0"]
    assert chosen(results, only="lost") == ["a-1"]
    assert chosen(results, only="differ") == ["a-0", "a-1"]
    assert chosen(results, benchmark="other") == ["o-0"]
    assert chosen(results, problem_id="a-2") == ["a-2"]


def test_the_terminal_shows_problem_strategy_gold_and_every_run(results, capsys, monkeypatch):
    found = compare(["first", "second"], problems_of, results, problem_id="a-0")
    text = terminal(found, limit=1, whole=True)
    for said in ("algebra: 1 problems, A 100.0  B 0.0; A above all others in 1, below "
        "all in 0", "strategy  Count on.",
                 "gold      2", "A: 2 of 2 right", "B: 0 of 2 right",
                 "wrong: answer 999 (last closed box; exact rules: numbers; 9 tokens)",
                 "      We think.\n      \\boxed{2}"):  # fmt: skip
        assert said in text, said
    monkeypatch.setenv("SGPO_RESULTS", str(results))
    assert main(["compare", "first", "second", "--limit", "1"]) == 0
    assert "3 more problems: --limit" in capsys.readouterr().out


def test_letters_alone_are_shown_and_say_how_texts_are_made(results):
    for name in RUNS:
        shutil.rmtree(results / "mine" / "runs" / name / "samples")
    found = compare(["first", "second"], problems_of, results, only="won")
    text = terminal(found, limit=5, whole=False)
    assert "first: published with verdict letters alone" in text
    assert "sgpo train --profile mini --model m --method first --seed 3 --out DIR" in text
    assert "=== algebra  a-0 sums" in text and "   correct\n   correct" in text
    assert "published with verdict letters alone" in page(found)


def test_of_another_world_it_says_whose_texts_are_there():
    results = Path(__file__).resolve().parents[2] / "results"
    stored = stored_runs(results / "mini")
    first, other = ([r for r in stored if f"qwen-m-sgpo-s{world}-" in r][0] for world in (0, 1))
    found = compare([other], lambda *place: [], results, benchmark="trained")
    assert f"not here (those of {first} are); make them: sgpo train" in found.letters_only[0]
    assert not compare([first], lambda *place: [], results, benchmark="trained").letters_only


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["first", "third"], "third: no run here"),
        (["second"], "other.jsonl.gz: no samples file, or a damaged one"),
        (["first", "--benchmark", "geometry"], "'geometry': the runs share algebra, other"),
        (["first", "--id", "z"], "--id 'z': the runs hold a-0, a-1, a-2, .. o-0"),
    ],
)
def test_mistakes_are_one_line(results, monkeypatch, refused, arguments, said):
    monkeypatch.setenv("SGPO_RESULTS", str(results))
    (results / "mine/runs/second/samples/other.jsonl.gz").write_bytes(b"no gzip")
    refused(["compare", *arguments], said)


def test_formulas_become_mathml_and_nothing_becomes_markup():
    assert rich(r"so $\frac{1}{2}$") == (
        'so <math display="inline"><mrow><mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow>'
        "</mfrac></mrow></math>"
    )
    assert "<mtext>a&lt;b</mtext>" in rich(r"$\text{a<b}$")
    assert 'class="boxed"' in rich(r"\boxed{\frac{x}{2}}") and "{" not in rich(r"\boxed{(1,2)}")
    assert "href" not in rich(r"$\href{javascript:alert(1)}{x}$")
    assert rich("$5 and $6 <b>") == "$5 and $6 &lt;b&gt;"
    for broken in ("$}{$", r"$\left($", r"\(\foo x\)", r"\boxed{1", "$" + "{" * 3000 + "$"):
        found = rich(broken + "<script>")
        assert "<script" not in found and found.endswith("&lt;script&gt;"), broken


def test_the_page_filters_moves_and_fits_in_a_browser(browser, results, tmp_path, monkeypatch):
    monkeypatch.setenv("SGPO_RESULTS", str(results))
    file = tmp_path / "page.html"
    found = compare(["first", "second"], problems_of, results)
    file.write_text(page(found))
    assert "http" not in file.read_text().replace("http://www.w3.org/1998/Math/MathML", "")

    def select(field: str, value: str) -> None:
        browser.execute_script(
            "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
            "f.dispatchEvent(new Event(f.id === 'search' ? 'input' : 'change'))", field, value
        )  # fmt: skip

    def text(query: str) -> str:
        return " ".join(browser.find_element("css selector", query).text.split())

    browser.set_window_size(1280, 900)
    browser.get(file.as_uri())
    assert text("#count") == "4 of 4 problems"
    assert "Add 1 and 1" in text("#detail") and "Count on." in text("#detail")
    browser.find_element("css selector", "body").send_keys("j")
    assert "a-1" in text("#detail h2") and "2 of 4" in text("#detail")
    browser.find_element("css selector", "body").send_keys("k")
    assert "a-0" in text("#detail h2")
    select("patternA", "all")
    select("patternB", "none")  # A right and B wrong
    assert text("#count") == "1 of 4 problems" and "a-0" in text("#list")
    browser.find_element("id", "reset").click()
    select("kind", "sums")
    assert text("#count") == "2 of 4 problems"
    select("search", "cost")
    assert text("#count") == "1 of 4 problems"
    browser.get(f"{file.as_uri()}#only=lost")
    browser.refresh()
    assert text("#count") == "1 of 4 problems" and "a-1" in text("#detail h2")
    # What a model wrote is text: no script ran, no element came of it.
    browser.get(f"{file.as_uri()}#benchmark=other")
    browser.refresh()
    assert "<b>Is it</b> 7?" in text("#detail") and "<img src=x" in text("#detail")
    assert not browser.find_elements("css selector", "img")
    for width in (1280, 400):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


# sgpo curves --------------------------------------------------------------------------------------


def lines_of(text: str, label: str) -> list[str]:
    """The rows below a metric's heading."""
    return text.split(label)[1].split("\n\n")[0].splitlines()[1:]


def test_a_stored_and_a_running_run_side_by_side(study, monkeypatch, capsys):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    done, running = (run_dir(study, "qwen-m", m, 0) for m in ("sgpo", "grpo"))
    path = running / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]) + '{"step": 7, "rew')
    (running / "result.json").unlink()
    assert main(["curves", str(done), running.name]) == 0
    shown = capsys.readouterr().out
    rows = lines_of(shown, "reward, 0 to 1")
    assert [row.split()[-1] for row in rows] == [done.name, running.name]
    assert "step 39" in rows[0] and "step 6" in rows[1]
    stored = pd.read_json(done / "metrics.jsonl", lines=True)
    first, last = stored.reward.iloc[[0, -1]]
    assert f"{first:.3g} -> {last:.3g}" in rows[0]
    assert "held-out" not in shown


def test_a_png_is_drawn(study, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    names = [run_dir(study, "qwen-m", m, 0).name for m in ("sgpo", "sft")]
    assert main(["curves", *names, "--out", str(tmp_path / "c.png")]) == 0
    assert main(["curves", *names, "--out", str(tmp_path / "c.bmp")]) == 2
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "c.png: 2 runs" in capsys.readouterr().out
    frames = {"a": pd.DataFrame({"loss": [0.0, 8.0]}), "b": pd.DataFrame({"loss": [4.0, 4.0]})}
    a, b = lines_of(curves.terminal(frames), "loss (0 to 8)")  # bars share one scale
    assert "▁█" in a and "▅▅" in b


@pytest.mark.parametrize(
    ("name", "said"), [("no-such-run", "no run here"), ("empty", "no training step")]
)
def test_runs_without_curves_are_one_line(study, monkeypatch, refused, name, said):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    (study / "runs" / "empty").mkdir()
    (study / "runs" / "empty" / "metrics.jsonl").write_text(json.dumps({"step": 1})[:4])
    refused(["curves", name], said)
