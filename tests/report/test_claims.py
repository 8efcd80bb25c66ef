"""The claims: effects, verdicts, the page, and that a missing run empties what it should."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.text import Text
from synthetic_analyses import RIGHT, steps
from synthetic_experiments import NUM_SEEDS
from synthetic_study import average, run_dir

from benchmarks.report import artefact, claims, claims_page, effects, estimates
from benchmarks.report import build as report
from benchmarks.report.claims import ALLOWED, MARGINS, Claim, Verdict
from benchmarks.report.document import csv_text, frame
from benchmarks.report.effects import TIMES, Effect, Found, Subject, gain
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures import axes
from benchmarks.report.tables import accuracy
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import Study
from benchmarks.store.stats import Mean


@pytest.fixture(scope="module")
def loaded(extended_study) -> Study:
    return load_study(extended_study)


@pytest.fixture(scope="module")
def found(loaded) -> list:
    return claims.evaluate(loaded)


# Verdicts and texts -------------------------------------------------------------------------------


def score(mean: float, *, seeds: int = 5, spread: float = 0.3) -> Score:
    """An effect of which the standard error is ``spread`` over the root of ``seeds``."""
    values = np.linspace(-1.0, 1.0, seeds) / np.linspace(-1.0, 1.0, max(seeds, 2)).std(ddof=1)
    return Score(Mean.over_units(mean + spread * values), ("run",))


def verdict(
    effect: Score | None = None, unit: str = "points", miniature: bool = True, **claim: object
) -> Verdict:
    """The verdict on a claim whose effect is given."""
    measured = Effect(lambda study, subject: [], lambda study, subject: Found(effect), unit)
    asked = Claim("k", "s", "w", "h", lambda study: [Subject("m", "on")], measured, **claim)
    (found,) = claims.judge(asked, study=SimpleNamespace(miniature=miniature))
    return found


@pytest.mark.parametrize(
    ("effect", "claim", "words"),
    [
        (score(2.0), {}, "holds"),
        (score(-2.0), {}, "fails"),
        (score(0.1), {}, "equivalent within the margin"),
        (score(0.9), {"unit": "alpha"}, "holds"),
        (score(0.0), {"unit": "alpha"}, "too little data"),  # its margin is 0.02
        (score(1.0, spread=3.0), {}, "too little data"),
        (score(2.0, seeds=4), {}, "too little data"),
        (score(2.0, seeds=4), {"miniature": False}, "holds"),
        (score(2.0, seeds=2), {"miniature": False}, "too little data"),
        (score(2.0, seeds=1), {"miniature": False}, "one run"),
        (score(2.0, seeds=1), {}, "too little data"),
        (score(-1.0), {"allowed": 2.0}, "holds"),  # not below by two points or more
        (score(-2.1), {"allowed": 2.0}, "too little data"),
        (score(-3.0), {"allowed": 2.0}, "fails"),
        (score(2.0), {"built_in": "a formula"}, "built in"),
        (score(-2.0), {"built_in": "a formula"}, "built in"),
        (score(-0.006, spread=0.001), {"unit": "nats"}, "equivalent within the margin"),
        (score(-0.016, spread=0.001), {"unit": "nats"}, "fails"),
        (score(2.0), {"built_in": "by the world", "miniature": False}, "holds"),
        (score(2.0), {"built_in": "a formula", "miniature": False, "everywhere": True}, "built in"),
        (None, {}, "not run"),
    ],
)
def test_verdicts(effect, claim, words):
    found = verdict(effect, **claim)
    assert found.verdict == words
    assert (found.effect is None) == (effect is None)
    if claim.get("built_in") and words == "built in":
        assert found.p is None and not found.tested and claim["built_in"] in found.detail
        assert f"is {'above' if effect.mean > 0 else 'not above'} 0" in found.detail


def test_the_lowest_of_several_needs_a_smaller_p_to_fail_and_none_to_hold():
    """By hand: three units at -1, -2, -3 are at t = -2 * sqrt(3), of which two-sided p with 2
    degrees of freedom is 1 - t / sqrt(2 + t**2)."""
    alone = 1 - np.sqrt(12 / 14)

    def judged(sign: int, rows: int) -> Verdict:
        effect = Score(Mean.over_units([sign, sign * 2.0, sign * 3.0]), ("run",))
        measured = Effect(lambda *_: [], lambda *_: Found(effect, picked_from=rows))
        asked = Claim("k", "s", "w", "h", lambda study: [Subject("m", "on")], measured)
        (found,) = claims.judge(asked, SimpleNamespace(miniature=False))
        return found

    assert judged(-1, 1).p == pytest.approx(alone) and judged(1, 7).p == pytest.approx(alone)
    assert judged(-1, 7).p == pytest.approx(7 * alone) and judged(-1, 40).p == 1.0


def test_every_unit_has_a_margin_and_not_below_has_its_own():
    assert {c.effect.unit for c in claims.CLAIMS} <= set(MARGINS)
    for claim in claims.CLAIMS:
        assert claim.margin == (claim.allowed or MARGINS[claim.effect.unit])
        assert claim.allowed in (0.0, ALLOWED)
        assert not claim.everywhere or claim.built_in


def test_the_papers_claims_are_corrected_for_their_number_and_no_others(monkeypatch, loaded):
    values = {"a": 10.0, "b": 4.5, "c": 4.2, "past": 4.2}

    def claim(key: str) -> Claim:
        effect = Effect(lambda *_: [], lambda *_: Found(score(values[key], spread=3.0)))
        return Claim(key, key, "w", "h", lambda study: [Subject("m", "on")], effect,
                     past=key == "past")  # fmt: skip

    monkeypatch.setattr(claims, "CLAIMS", [claim(key) for key in values])
    loaded.memo.clear()
    found = {v.key: v for v in claims.evaluate(loaded)}
    loaded.memo.clear()
    alone = {key: v.p for key, v in found.items()}
    assert alone["c"] < 0.05 and found["past"].verdict == "holds"
    assert found["past"].corrected is None
    assert found["a"].corrected == pytest.approx(3 * alone["a"])
    assert found["c"].corrected == pytest.approx(max(2 * alone["b"], alone["c"]))
    assert [found[key].verdict for key in "abc"] == ["holds", "too little data", "too little data"]


def test_a_mean_alone_has_no_interval_anywhere(monkeypatch, loaded):
    alone = Score(Mean.over_units([3.0]), (next(iter(loaded.runs)),))
    found = verdict(alone)
    assert found.text() == "+3.0 points" and found.verdict == "too little data"
    assert verdict(Score(Mean.over_units([0.0]), ("run",)), TIMES).text() == "1.00x"
    (line,) = claims_page.summary_tables(loaded, [found])[0].rows
    assert line[3].text == "+3.0 points" and line[6].text == ""
    (record,) = csv.DictReader(csv_text(frame(claims_page.records([found]))).splitlines())
    assert record["effect"] == "3.0"
    assert record["ci_low"] == record["ci_high"] == record["detectable"] == ""


def test_texts_of_effects():
    at_zero = score(-0.02, spread=0.05)
    assert verdict(at_zero).text().startswith("+0.0 points [-0.1, ")  # no minus zero
    assert verdict(score(0.2, spread=0.0), "alpha").text() == "+0.200 alpha [0.200, 0.200]"
    low, mean, high = re.findall(r"[\d.]+", verdict(score(0.0, spread=0.1), TIMES).text())
    assert float(mean) * float(high) == pytest.approx(1.0, abs=0.02) and low == "1.00"
    assert verdict().text() == verdict().verdict == "not run"


# What a claim reads -------------------------------------------------------------------------------


def test_needs_cover_what_the_claims_read(extended_study, monkeypatch):
    """Every effect is watched while it measures: it must not look at a run that it did not name,
    and the plan alone must give the same list as the finished study."""
    study, read = load_study(extended_study), set()

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
    planned = Study.read(extended_study)
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


def test_effects_are_counted_losses_and_the_papers_stand_beside(variant_study):
    root, _ = variant_study
    keys = ("ablation_hurts", "proximal_hurts_most", "kl_beats_sft", "forward_beats_reverse")
    rows = [c for c in claims.evaluate(load_study(root)) if c.key in keys]
    sgpo = average(root, "qwen-m", "sgpo")
    hurts = [c for c in rows if c.key == "ablation_hurts"]
    expected = {  # method, the paper's 52.1 minus its row
        "w/o strategy distillation, Qwen-M": ("grpo", "+2.2 points"),
        "w/o autonomous GRPO, Qwen-M": ("sgpo_no_grpo", "+3.5 points"),
        "w/o all proximal constraints, Qwen-M": ("sgpo_no_proximal", "+6.8 points"),
        "w/o KL clipping, Qwen-M": ("sgpo_no_clip", "+3.4 points"),
        "w/o target selection, Qwen-M": ("sgpo_no_selection", "+4.0 points"),
        "w/o adaptive weighting, Qwen-M": ("sgpo_fixed_alpha", "+1.2 points"),
    }
    assert [c.subject for c in hurts] == list(expected)
    for claim in hurts:
        method, paper = expected[claim.subject]
        assert claim.effect.mean == pytest.approx(sgpo - average(root, "qwen-m", method), abs=1e-6)
        assert (claim.paper, claim.unit) == (paper, "points")
    for effect, number in ((effects.largest_loss(), 5), (effects.best_other_row(), 6)):
        assert effect.measure(load_study(root), Subject("qwen-m", "on")).picked_from == number
    rest = {c.key: c for c in rows if c.key != "ablation_hurts"}
    found = {m: average(root, "qwen-m", m) for m, _ in accuracy.TABLE2.rows}
    proximal = found.pop("sgpo_no_proximal")
    del found["sgpo"]
    margins = {
        "proximal_hurts_most": (min(found.values()) - proximal, "+2.8 points"),
        "kl_beats_sft": (sgpo - average(root, "qwen-m", "sgpo_nll"), "+2.8 points"),
        "forward_beats_reverse": (sgpo - average(root, "qwen-m", "sgpo_reverse"), "+1.2 points"),
    }
    assert list(rest) == list(margins)
    for key, (effect, paper) in margins.items():
        assert rest[key].effect.mean == pytest.approx(effect, abs=1e-6)
        assert rest[key].paper == paper


def by_key(found, key: str) -> list:
    return [c for c in found if c.key == key]


def test_mask_claims_vary_one_thing_at_a_time(extended_study, found):
    pairs = {"same_mask": ("sgpo", "sgpo_nll_masked"), "no_mask": ("sgpo_no_clip", "sgpo_nll"),
             "mask_costs": ("sgpo_nll", "sgpo_nll_masked")}  # fmt: skip
    for key, (ours, theirs) in pairs.items():
        rows = by_key(found, key)
        assert [c.subject for c in rows] == ["mini-Qwen2-M", "mini-Llama-M"]
        for claim, model in zip(rows, ("qwen-m", "llama-m"), strict=True):
            seeds = range(claim.effect.num_seeds)
            expected = average(extended_study, model, ours, seeds) - average(
                extended_study, model, theirs, seeds
            )
            assert claim.effect.mean == pytest.approx(expected, abs=1e-6)
    assert {c.effect.num_seeds for c in by_key(found, "same_mask")} == {5, 6}


def test_a_larger_delta_is_compared_on_both_models(found):
    labels = [c.subject for c in by_key(found, "delta_three")]
    assert labels == ["mini-Qwen2-M", "mini-Llama-M"]


def test_bad_strategies_are_compared_on_alpha_and_on_accuracy(extended_study, found):
    lower, harmless = by_key(found, "alpha_switches_off"), by_key(found, "bad_is_harmless")
    assert len(lower) == len(harmless) == len(experiments.DEGRADED)
    method = experiments.degraded_method(experiments.DEGRADED[0])
    study = load_study(extended_study)
    means = []
    for name in ("sgpo", method):
        runs = study.runs_of("qwen-m", name, scored=True)[:5]
        means.append(np.mean([np.nanmean(run.metrics["alpha_mean"]) for run in runs]))
    assert lower[0].effect.mean == pytest.approx(means[0] - means[1])
    assert {c.claim.allowed for c in harmless} == {ALLOWED}
    seeds = range(experiments.SEEDS)
    ours, theirs = (average(extended_study, "qwen-m", m, seeds) for m in (method, "grpo"))
    expected = ours - theirs
    assert harmless[0].effect.mean == pytest.approx(expected, abs=1e-6)


def test_equal_tokens_interpolates_the_baseline_between_its_budgets(extended_study, loaded, found):
    # Every run scores 7000 tokens a step, so SGPO's budget costs what SFT+GRPO's does.
    (claim,) = by_key(found, "equal_tokens")
    seeds = range(NUM_SEEDS)
    ours, theirs = (average(extended_study, "qwen-m", m, seeds) for m in ("sgpo", "grpo"))
    expected = ours - theirs
    assert claim.effect.mean == pytest.approx(expected, abs=1e-6)
    points = [
        (cost, estimates.accuracy(loaded, "qwen-m", "grpo", AVERAGE, None, budget))
        for cost, budget in zip((1.0, 10.0, 100.0, 1000.0), experiments.BUDGETS, strict=True)
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
    assert over_reverse.effect.mean > over_grpo.effect.mean
    (mass,) = by_key(found, "kl_on_decisions")
    kl = [np.array([p["kl"] for p in steps(seed)["problems"]]) for seed in range(NUM_SEEDS)]
    share = np.mean([found[:, :2].sum() / found.sum() for found in kl])
    assert mass.effect.mean == pytest.approx(100 * (share - 6 / 30)) and mass.tested
    assert mass.paper == "shown on one example (Fig. 5)"
    passed = by_key(found, "pass_not_below")
    assert [c.subject for c in passed] == ["mini-Qwen2-S", "mini-Qwen2-M", "mini-Llama-M"]
    assert passed[0].statement.startswith("pass@8 is not below")
    faster = [*by_key(found, "faster_adaptive"), *by_key(found, "faster_kl")]
    assert [c.unit for c in faster] == [TIMES, TIMES]
    assert all(c.effect.interval.low <= c.effect.mean <= c.effect.interval.high for c in faster)
    assert all(c.effect.mean > 0 for c in faster)


# Pages --------------------------------------------------------------------------------------------


def test_the_page_has_each_claim_once_in_the_summary_and_once_in_detail(found, loaded):
    text = claims_page.page(loaded, found)
    assert "no evidence about 7B models" in text.splitlines()[2]
    assert "One world: seeds only" in text and "fewer than 5 seeds" in text
    head, details = text.split("## How each claim is measured")
    rows = [line.split(" | ") for line in head.splitlines() if line.count(" | ") == 7]
    rows = [cells for cells in rows if cells[2].startswith("**")]
    assert [cells[1] for cells in rows] == [v.subject for v in found]
    for cells, test in zip(rows, found, strict=True):
        assert cells[2] == f"**{test.verdict}**"
        assert cells[3].startswith(f"[{test.text()}](REPORT.md#runs-")
    for words in claims_page.by_statement(found):
        statement = claims_page.sentence(words)
        assert head.count(f"[{statement}](#claim-") == details.count(f"### {statement} (") == 1
    assert head.index("Claims of the paper") < head.index("Past the paper")
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    explained = details[details.index("### KL distillation beats direct SFT") :].split("###")[1]
    taken_apart = [line for line in explained.splitlines() if "taken apart" in line]
    assert [line.split(": ")[1] for line in taken_apart] == [
        "with the mask on both, KL beats direct SFT",
        "with no mask on either, KL beats direct SFT",
        "the mask costs direct SFT accuracy",
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
def complete(variant_study, tmp_path_factory) -> dict[str, object]:
    """What every artefact of the complete study shows."""
    root = shutil.copytree(variant_study[0], tmp_path_factory.mktemp("complete") / "mini")
    with pytest.MonkeyPatch.context() as patch:
        shown, summary = contents(root, patch)
    assert summary.missing == ()
    return shown


@pytest.mark.parametrize(
    "gone",
    [("qwen-m", "sgpo", 1), ("llama-m", "base", None), "analyses/steps-qwen-m-s2.json"],
)
def test_deleting_one_thing_changes_what_needs_it_and_nothing_else(
    variant_copy, complete, monkeypatch, gone
):
    before, root = complete, variant_copy
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


def test_a_claim_whose_run_is_gone_is_not_run_and_no_other(variant_copy):
    root = variant_copy
    before = {(c.key, c.subject): c for c in claims.evaluate(load_study(root))}
    shutil.rmtree(run_dir(root, "qwen-m", "sgpo_nll", 2))
    after = {(c.key, c.subject): c for c in claims.evaluate(load_study(root))}
    lost = {key for key in after if after[key].verdict == "not run"}
    assert lost == {("kl_beats_sft", "Qwen-M"), ("faster_kl", "Qwen-M")}
    for key in set(after) - lost:
        assert dataclasses.replace(after[key], effect=None) == dataclasses.replace(
            before[key], effect=None
        )
