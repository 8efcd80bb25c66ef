"""The claims: effects, verdicts, the page, and that a missing run empties what it should."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from synthetic_analyses import RIGHT, steps, write_analyses
from synthetic_experiments import NUM_SEEDS, write_extended
from synthetic_study import BENCHMARKS, load, run_dir, write_study

from benchmarks.report import artefact, claims, claims_page, effects, estimates
from benchmarks.report import build as report
from benchmarks.report.claims import MARGIN, Claim, Verdict
from benchmarks.report.effects import TIMES, Effect, Found, Subject, gain
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures import axes, equal_cost
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import Study


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Every experiment, never written to by a test."""
    return write_analyses(write_extended(tmp_path_factory.mktemp("claims") / "mini"))


@pytest.fixture(scope="module")
def loaded(extended) -> Study:
    return load_study(extended)


@pytest.fixture(scope="module")
def found(loaded) -> list:
    return claims.evaluate(loaded)


def score(low: float, high: float, seeds: int = 3) -> Score:
    return Score((low + high) / 2, np.linspace(low, high, 2001), seeds, ("run",))


def average(root: Path, model: str, method: str, seeds=(0, 1, 2)) -> float:
    means = []
    for seed in seeds:
        tables = load(run_dir(root, model, method, seed) / "scores.json")["benchmarks"]
        letters = ["".join(tables[key]["verdicts"]) for key, *_ in BENCHMARKS]
        means.append(np.mean([100 * text.count("c") / len(text) for text in letters]))
    return float(np.mean(means))


# Verdicts and texts -------------------------------------------------------------------------------


def verdict(unit: str = "points", effect: Score | None = None, margin: float = 0.0) -> Verdict:
    """The verdict on a claim whose effect is given."""
    measured = Effect(lambda study, subject: [], lambda study, subject: Found(effect), unit)
    claim = Claim("k", "s", "w", "h", lambda study: [Subject("m", "on")], measured, margin=margin)
    (found,) = claims.judge(claim, study=None)
    return found


@pytest.mark.parametrize(
    ("low", "high", "margin", "words"),
    [
        (0.5, 2.0, 0.0, "holds"),
        (-0.5, 2.0, 0.0, "undecided"),
        (-2.0, -0.5, 0.0, "does not hold"),
        (-1.5, 2.0, 2.0, "holds"),  # not below by two points or more
        (-3.0, 2.0, 2.0, "undecided"),
        (-5.0, -2.5, 2.0, "does not hold"),
    ],
)
def test_a_margin_moves_the_verdict_and_nothing_else(low, high, margin, words):
    found = verdict(effect=score(low, high), margin=margin)
    assert found.verdict == words
    assert found.effect.mean == (low + high) / 2
    share = np.mean(np.linspace(low, high, 2001) > -margin)
    assert found.probability == pytest.approx(share)


def test_texts_of_effects():
    assert verdict("points", score(-0.1, 0.06)).text() == "+0.0 points [-0.1, 0.1]"  # no minus zero
    assert verdict("alpha", score(0.1, 0.3)).text() == "+0.200 alpha [0.105, 0.295]"
    low, high = np.log(0.5) / 0.95, np.log(2.0) / 0.95
    assert verdict(TIMES, score(low, high)).text() == "1.00x [0.50, 2.00]"
    assert verdict().text() == verdict().verdict == "not run"


# What a claim reads -------------------------------------------------------------------------------


def test_needs_cover_what_the_claims_read(extended, monkeypatch):
    """Every effect is watched while it measures: it must not look at a run that it did not name,
    and the plan alone must give the same list as the finished study."""
    study, read = load_study(extended), set()

    def watched(self, model, method, *, scored):
        read.add((model, method))
        return runs_of(self, model, method, scored=scored)

    runs_of = Study.runs_of
    monkeypatch.setattr(Study, "runs_of", watched)
    for claim in claims.CLAIMS:
        for subject in claim.on(study):
            study.memo.clear()
            read.clear()
            claim.effect.measure(study, subject)
            inputs = {
                (cell.model, cell.method)
                for analysis in study.analyses
                for cell in study.cells
                if analysis.key == claim.effect.analysis and cell.run_id in analysis.inputs
            }
            named = set(claim.effect.reads(study, subject))
            assert read | inputs <= named, claim.key
            assert read or inputs
    planned = Study.read(extended)
    assert not planned.runs and claims.needs(planned) == claims.needs(study)


def test_a_new_claim_is_one_entry(loaded):
    claim = Claim(
        "luffy_beats_hpt", "LUFFY beats HPT", "Table 1", "Average of LUFFY minus that of HPT.",
        on=lambda study: [Subject(m.key, m.label) for m in study.models],
        effect=gain("luffy", "hpt"),
    )  # fmt: skip
    found = claims.judge(claim, loaded)
    assert [v.subject for v in found] == [m.label for m in loaded.models]
    assert found[1].effect.mean == pytest.approx(
        average(loaded.root, "qwen-m", "luffy", range(NUM_SEEDS))
        - average(loaded.root, "qwen-m", "hpt", range(NUM_SEEDS))
    )
    assert claim.effect.reads(loaded, claim.on(loaded)[0]) == [
        ("qwen-s", "luffy"),
        ("qwen-s", "hpt"),
    ]


def test_claims_are_tested_once_a_study(loaded):
    assert claims.evaluate(loaded) is claims.evaluate(loaded)
    assert claims.evaluate(load_study(loaded.root)) is not claims.evaluate(loaded)


# Effects ------------------------------------------------------------------------------------------


def test_every_claim_is_explained_and_those_of_the_paper_come_first(found):
    keys = [c.key for c in claims.CLAIMS]
    assert {c.key for c in found} == set(keys) and len(set(keys)) == len(keys)
    assert [c.past for c in found] == sorted(c.past for c in found)
    assert all(set(c.apart) <= set(keys) and c.where and c.how for c in claims.CLAIMS)
    for claim in found:
        assert claim.effect is not None, claim
        if not claim.past:
            assert claim.paper != "not measured"


def by_key(found, key: str) -> list:
    return [c for c in found if c.key == key]


def test_mask_claims_vary_one_thing_at_a_time(extended, found):
    pairs = {"same_mask": ("sgpo", "sgpo_nll_masked"), "no_mask": ("sgpo_no_clip", "sgpo_nll"),
             "mask_costs": ("sgpo_nll", "sgpo_nll_masked")}  # fmt: skip
    for key, (ours, theirs) in pairs.items():
        rows = by_key(found, key)
        assert [c.subject for c in rows] == ["mini-Qwen2-M", "mini-Llama-M"]
        for claim, model in zip(rows, ("qwen-m", "llama-m"), strict=True):
            seeds = range(claim.effect.num_seeds)
            expected = average(extended, model, ours, seeds) - average(
                extended, model, theirs, seeds
            )
            assert claim.effect.mean == pytest.approx(expected, abs=1e-6)
    assert {c.effect.num_seeds for c in by_key(found, "same_mask")} == {3, 4}


def test_delta_clipping_and_hard_exploration_read_their_models(extended, found):
    labels = [c.subject for c in by_key(found, "delta_three")]
    assert labels == ["mini-Qwen2-M", "mini-Qwen2-M, style", "mini-Llama-M"]
    style_model = experiments.STYLE_MODEL
    (clip,) = by_key(found, "clip_with_style")
    expected = average(extended, style_model, "sgpo") - average(
        extended, style_model, "sgpo_no_clip"
    )
    assert clip.effect.mean == pytest.approx(expected, abs=1e-6)
    (hardest,) = by_key(found, "hardest_exploration")
    best = max(average(extended, "qwen-m-p01", m) for m in experiments.MAP_BASELINES)
    assert hardest.effect.mean == pytest.approx(average(extended, "qwen-m-p01", "sgpo") - best)
    assert hardest.subject == "mini-Qwen2-M with an unguided pass rate of 0.013"


def test_bad_strategies_are_compared_on_alpha_and_on_accuracy(extended, found):
    lower, harmless = by_key(found, "alpha_switches_off"), by_key(found, "bad_is_harmless")
    assert len(lower) == len(harmless) == len(experiments.DEGRADED)
    method = experiments.degraded_method(experiments.DEGRADED[0])
    study = load_study(extended)
    means = []
    for name in ("sgpo", method):
        runs = study.runs_of("qwen-m", name, scored=True)[:3]
        means.append(np.mean([np.nanmean(run.metrics["alpha_mean"]) for run in runs]))
    assert lower[0].effect.mean == pytest.approx(means[0] - means[1])
    assert {c.claim.margin for c in harmless} == {MARGIN}
    expected = average(extended, "qwen-m", method) - average(extended, "qwen-m", "grpo")
    assert harmless[0].effect.mean == pytest.approx(expected, abs=1e-6)


def test_equal_tokens_interpolates_the_baseline_between_its_budgets(extended, loaded, found):
    # Every run scores 7000 tokens a step, so SGPO's 28 steps cost what SFT+GRPO's 28 do.
    (claim,) = by_key(found, "equal_tokens")
    expected = average(extended, "qwen-m", "sgpo") - average(extended, "qwen-m", "grpo")
    assert claim.effect.mean == pytest.approx(expected, abs=1e-6)
    keys = equal_cost.keys(loaded, "grpo")
    assert keys == ["grpo_steps7", "grpo_steps14", "grpo", "grpo_steps56"]
    points = [
        (cost, estimates.accuracy(loaded, "qwen-m", key, AVERAGE, [0, 1, 2]))
        for cost, key in zip((1.0, 10.0, 100.0, 1000.0), keys, strict=True)
    ]
    half_way = effects.interpolated(points, 10**1.5)
    assert half_way.mean == pytest.approx((points[1][1].mean + points[2][1].mean) / 2)
    assert effects.interpolated(points, 0.5) is None
    assert effects.interpolated(points, 2000.0) is None


def test_plan_kl_and_pass_claims_are_counted(found, loaded):
    over_grpo, over_reverse = by_key(found, "right_plan")
    assert over_grpo.effect.mean == pytest.approx(
        100 * (np.mean(RIGHT["sgpo"]) - np.mean(RIGHT["grpo"]))
    )
    assert over_reverse.effect.mean > over_grpo.effect.mean and over_grpo.verdict == "holds"
    (mass,) = by_key(found, "kl_on_decisions")
    problems = [p for seed in range(NUM_SEEDS) for p in steps(seed)["problems"]]
    share = sum(sum(p["kl"][:2]) for p in problems) / sum(sum(p["kl"]) for p in problems)
    assert mass.effect.mean == pytest.approx(100 * (share - 6 / 30)) and mass.verdict == "holds"
    assert mass.paper == "shown on one example (Fig. 5)"
    passed = by_key(found, "pass_not_below")
    assert [c.subject for c in passed] == ["mini-Qwen2-S", "mini-Qwen2-M", "mini-Llama-M"]
    assert passed[0].statement.startswith("pass@8 is not below")
    faster = [*by_key(found, "faster_adaptive"), *by_key(found, "faster_kl")]
    assert [c.unit for c in faster] == [TIMES, TIMES]
    assert all(c.effect.interval.low <= c.effect.mean <= c.effect.interval.high for c in faster)
    assert all(c.effect.mean > 0 for c in faster)


# Pages --------------------------------------------------------------------------------------------


def test_the_page_has_each_claim_once_in_the_summary_and_once_in_detail(extended, found, loaded):
    text = claims_page.page(loaded, found)
    assert "no evidence about 7B models" in text.splitlines()[2]
    head, details = text.split("## Each claim in detail")
    for words, tests in claims_page.by_statement(found).items():
        statement = words[0].upper() + words[1:]
        (line,) = [row for row in head.splitlines() if row.startswith(f"| [{statement}](#claim-")]
        assert line.count("**") == 2 * len(tests)
        for test in tests:
            assert f"**{test.verdict}** [{test.text()}](REPORT.md#runs-" in line
        assert details.count(f"### {statement} (") == 1
    assert head.index("Claims of the paper") < head.index("Past the paper")
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    assert {a for a in re.findall(r"\]\(#([^)]+)\)", text)} <= anchors
    explained = details[details.index("### KL distillation beats direct SFT") :]
    taken_apart = explained[explained.index("Taken apart") :].split("\n\n")[1].splitlines()
    assert [line.split(":")[0] for line in taken_apart] == [
        "- With the mask on both, KL beats direct SFT",
        "- With no mask on either, KL beats direct SFT",
        "- The mask costs direct SFT accuracy",
    ]
    assert taken_apart[2].count("mini-") == 2


def test_the_csv_has_one_record_a_test(found):
    records = claims_page.records(found)
    assert len(records) == len(found)
    assert {len(str(r["run_ids"])) > 0 for r in records} == {True}
    assert sum(bool(r["of_the_paper"]) for r in records) == sum(not c.past for c in found)


# A missing run or analysis ------------------------------------------------------------------------


def signature(figure) -> tuple:
    """Everything a reader could see of a figure: texts, lines, bars."""
    lines = [line.get_xydata().round(9).tobytes() for line in figure.findobj(axes.plt.Line2D)]
    patches = [p.get_path().vertices.round(9).tobytes() for p in figure.findobj(axes.plt.Polygon)]
    return tuple(t.get_text() for t in figure.findobj(Text)), tuple(lines), tuple(patches)


def contents(root: Path, monkeypatch) -> tuple[dict[str, object], report.ReportSummary]:
    """What every artefact shows, by its name: tables as text, figures by their content."""
    shown: dict[str, object] = {}

    def keep(figure, path):
        shown[path.stem] = signature(figure)
        axes.plt.close(figure)
        return []

    monkeypatch.setattr(artefact, "save", keep)
    names = [a.name for a in report.chosen_artefacts(load_study(root))]
    summary = report.build(root, only=names)
    for path in summary.written:
        if path.suffix == ".csv" and not path.stem.endswith("_paper"):
            shown[path.stem] = path.read_text()
    return shown, summary


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Path:
    return write_analyses(write_study(tmp_path_factory.mktemp("variants") / "mini", variants=True))


@pytest.fixture(scope="module")
def complete(variants) -> dict[str, object]:
    """What every artefact of the complete study shows."""
    with pytest.MonkeyPatch.context() as patch:
        shown, summary = contents(variants, patch)
    assert summary.missing == ()
    return shown


@pytest.mark.parametrize(
    "gone",
    [("qwen-m", "sgpo", 1), ("llama-m", "base", None), "analyses/steps-qwen-m-s2.json"],
)
def test_deleting_one_thing_changes_what_needs_it_and_nothing_else(
    variants, complete, tmp_path, monkeypatch, gone
):
    before = complete
    root = Path(shutil.copytree(variants, tmp_path / "mini"))
    if isinstance(gone, str):
        (root / gone).unlink()
        name = Path(gone).stem
    else:
        name = run_dir(root, *gone).name
        shutil.rmtree(run_dir(root, *gone))
    after, summary = contents(root, monkeypatch)
    changed = {key for key in before if before[key] != after[key]}
    (direct,) = [m for m in summary.missing if m.run_id == name]
    assert changed == {a for m in summary.missing for a in m.artefacts}
    for key in direct.artefacts:
        assert "not run" in str(after[key]), key
        assert "not run" not in str(before[key]), key
    for missing in summary.missing:  # what is missing besides was made from what is gone
        assert missing is direct or missing.reason == f"needs {name}"


def test_a_claim_whose_run_is_gone_is_not_run_and_no_other(variants, tmp_path):
    root = Path(shutil.copytree(variants, tmp_path / "mini"))
    before = {(c.key, c.subject): c for c in claims.evaluate(load_study(root))}
    shutil.rmtree(run_dir(root, "qwen-m", "sgpo_nll", 2))
    after = {(c.key, c.subject): c for c in claims.evaluate(load_study(root))}
    lost = {key for key in after if after[key].verdict == "not run"}
    assert lost == {("kl_beats_sft", "Qwen-M"), ("faster_kl", "Qwen-M")}
    for key in set(after) - lost:
        assert dataclasses.replace(after[key], effect=None) == dataclasses.replace(
            before[key], effect=None
        )
