"""The claims: effects, verdicts, the page, and that a missing run empties what it should."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_analyses import RIGHT, steps
from synthetic_study import METHODS, STEPS, average, change, load, run_dir, write_study

from benchmarks.report import claims, claims_page, effects, estimates, headline
from benchmarks.report.claims import MARGINS, Claim, Verdict
from benchmarks.report.document import csv_text, frame
from benchmarks.report.effects import TIMES, Effect, Found, Subject
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.tables import accuracy
from benchmarks.store import experiments, stats
from benchmarks.store.load import load_study
from benchmarks.store.publish import publish
from benchmarks.store.records import Study
from benchmarks.store.stats import Mean

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def loaded(variant_study) -> Study:
    return load_study(variant_study[0])


@pytest.fixture(scope="module")
def found(loaded) -> list:
    return claims.evaluate(loaded)


def by_key(found, key: str) -> list:
    return [c for c in found if c.key == key]


# Verdicts and texts -------------------------------------------------------------------------------


def score(mean: float, *, seeds: int = 5, spread: float = 0.3) -> Score:
    """An effect of which the standard error is ``spread`` over the root of ``seeds``."""
    values = np.linspace(-1.0, 1.0, seeds) / np.linspace(-1.0, 1.0, max(seeds, 2)).std(ddof=1)
    return Score(Mean.over_units(mean + spread * values), ("run",))


def verdict(
    effect: Score | None = None,
    unit: str = "points",
    miniature: bool = True,
    picked_from: int = 1,
    **claim: object,
) -> Verdict:
    """The verdict on a claim whose effect is given."""
    measured = Effect(lambda *_: Found(effect, picked_from=picked_from), unit=unit)
    asked = Claim("k", "s", "h", lambda study: [Subject("m", "on")], measured, **claim)
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
        (score(2.0), {"built_in": "a formula"}, "built in"),
        (score(-2.0), {"built_in": "a formula", "miniature": False}, "built in"),
        (score(2.0), {"made_so": "a formula"}, "built in"),
        (score(2.0), {"made_so": "a formula", "miniature": False}, "holds"),
        (score(-0.006, spread=0.001), {"unit": "nats"}, "equivalent within the margin"),
        (score(-0.016, spread=0.001), {"unit": "nats"}, "fails"),
        (None, {}, "not run"),
    ],
)
def test_verdicts(effect, claim, words):
    found = verdict(effect, **claim)
    assert found.verdict == words
    assert (found.effect is None) == (effect is None)
    if words == "built in":
        assert found.p is None and "a formula" in found.detail
        assert f"is {'above' if effect.mean > 0 else 'not above'} 0" in found.detail


def test_the_lowest_of_several_needs_a_smaller_p_to_fail_and_none_to_hold():
    """By hand: three units at -1, -2, -3 are at t = -2 * sqrt(3), of which two-sided p with 2
    degrees of freedom is 1 - t / sqrt(2 + t**2)."""
    alone = 1 - np.sqrt(12 / 14)
    for sign, rows, p in ((-1, 1, alone), (1, 7, alone), (-1, 7, 7 * alone), (-1, 40, 1.0)):
        effect = Score(Mean.over_units([sign, sign * 2.0, sign * 3.0]), ("run",))
        judged = verdict(effect, miniature=False, picked_from=rows)
        assert judged.p == pytest.approx(p)


def test_every_claim_has_a_margin_is_explained_and_those_of_the_paper_come_first(found):
    keys = [c.key for c in claims.CLAIMS]
    assert {c.key for c in found} == set(keys) and len(set(keys)) == len(keys)
    assert [c.past for c in found] == sorted(c.past for c in found)
    assert all(c.effect is not None and (c.past or c.paper != "not measured") for c in found)
    for claim in claims.CLAIMS:
        assert set(claim.apart) <= set(keys) and claim.where and claim.how
        assert claim.effect.unit in MARGINS


def test_the_papers_claims_are_corrected_for_their_number_and_no_others(monkeypatch, loaded):
    values = {"a": 10.0, "b": 4.5, "c": 4.2, "past": 4.2}

    def claim(key: str) -> Claim:
        effect = Effect(lambda *_: Found(score(values[key], spread=3.0)))
        where = "past the paper" if key == "past" else "Table 1"
        return Claim(key, key, "h", lambda study: [Subject("m", "on")], effect, where)

    monkeypatch.setattr(claims, "CLAIMS", [claim(key) for key in values])
    found = {v.key: v for v in claims.evaluate(load_study(loaded.root))}
    alone = {key: v.p for key, v in found.items()}
    assert alone["c"] < 0.05 and found["past"].verdict == "holds"
    assert found["past"].corrected is None
    assert found["a"].corrected == pytest.approx(3 * alone["a"])
    assert found["c"].corrected == pytest.approx(max(2 * alone["b"], alone["c"]))
    assert [found[key].verdict for key in "abc"] == ["holds", "too little data", "too little data"]


# What a claim reads -------------------------------------------------------------------------------


def test_needs_cover_what_the_claims_read(variant_study, monkeypatch):
    """Every effect is watched while it measures: it must not look at a run that it did not name,
    and the plan alone must give the same list as the finished study."""
    study, read = load_study(variant_study[0]), set()

    def watched(self, model, method, *, scored):
        read.add((model, method))
        return runs_of(self, model, method, scored=scored)

    runs_of = Study.runs_of
    monkeypatch.setattr(Study, "runs_of", watched)
    for claim in claims.CLAIMS:
        for subject in claim.subjects(study):
            study.memo.clear()
            read.clear()
            claim.effect.measure(study, subject)
            named = set(claim.effect.reads(study, subject))
            assert named and (read or claim.effect.analysis) and read <= named, claim.key
    assert ("qwen-m", "sgpo_reverse") in claims.needs(study)
    planned = Study.read(variant_study[0])
    assert not planned.runs and claims.needs(planned) == claims.needs(study)


def test_where_trials_chose_the_usual_value_the_methods_own_row_stands_for_the_tuned_one(
    variant_study,
):
    study = load_study(variant_study[0])
    (claim,) = (c for c in claims.CLAIMS if c.key == "tuned_beats_hpt")

    def without(*rows: str, listed: bool = True) -> Study:
        cells = tuple(c for c in study.cells if c.method not in rows)
        kept = tuple(m for m in study.extra_methods if listed or m.key not in rows)
        return replace(study, cells=cells, extra_methods=kept)

    def effect(of: Study) -> Score | None:
        (verdict,) = claims.judge(claim, of)
        return verdict.effect

    assert effect(study).mean == estimates.gain(study, "qwen-m", "sgpo_tuned", "hpt_tuned").mean
    chosen = without("sgpo_tuned", "hpt_tuned")
    assert effect(chosen).mean == estimates.gain(study, "qwen-m", "sgpo", "hpt").mean
    (subject,) = claim.subjects(chosen)
    assert claim.effect.reads(chosen, subject) == [("qwen-m", "sgpo"), ("qwen-m", "hpt")]
    assert not claims.judge(claim, without("hpt_tuned", listed=False))  # no trials: not asked


# Effects ------------------------------------------------------------------------------------------


def test_effects_are_counted_losses_and_the_papers_stand_beside(found, loaded):
    root = loaded.root
    mean = {m: average(root, "qwen-m", m) for m, _ in accuracy.TABLE2.rows}
    expected = {  # method, the paper's 52.1 minus its row
        "w/o strategy distillation, Qwen-M": ("grpo", "+2.2 points"),
        "w/o autonomous GRPO, Qwen-M": ("sgpo_no_grpo", "+3.5 points"),
        "w/o all proximal constraints, Qwen-M": ("sgpo_no_proximal", "+6.8 points"),
        "w/o KL clipping, Qwen-M": ("sgpo_no_clip", "+3.4 points"),
        "w/o target selection, Qwen-M": ("sgpo_no_selection", "+4.0 points"),
        "w/o adaptive weighting, Qwen-M": ("sgpo_fixed_alpha", "+1.2 points"),
    }
    hurts = by_key(found, "ablation_hurts")
    assert [c.subject for c in hurts] == list(expected)
    for claim, (method, paper) in zip(hurts, expected.values(), strict=True):
        assert claim.effect.mean == pytest.approx(mean["sgpo"] - mean[method], abs=1e-6)
        assert (claim.paper, claim.unit) == (paper, "points")
    for effect, number in ((effects.largest_loss, 5), (effects.best_other_row, 6)):
        assert effect.measure(loaded, Subject("qwen-m", "on")).picked_from == number
    others = [mean[m] for m in mean if m not in ("sgpo", "sgpo_no_proximal")]
    (most,) = by_key(found, "proximal_hurts_most")
    assert most.effect.mean == pytest.approx(min(others) - mean["sgpo_no_proximal"], abs=1e-6)
    assert most.paper == "+2.8 points"
    pairs = (  # key, ours, theirs, the paper's number, models
        ("kl_beats_sft", "sgpo", "sgpo_nll", "+2.8 points", ("qwen-m",)),
        ("forward_beats_reverse", "sgpo", "sgpo_reverse", "+1.2 points", ("qwen-m",)),
        ("same_mask", "sgpo", "sgpo_nll_masked", "", ("qwen-m", "llama-m")),
        ("no_mask", "sgpo_no_clip", "sgpo_nll", "", ("qwen-m", "llama-m")),
        ("mask_costs", "sgpo_nll", "sgpo_nll_masked", "", ("qwen-m", "llama-m")),
        ("frozen_teacher", "sgpo_frozen", "sgpo", "", ("qwen-m",)),
        ("delta_three", "sgpo_delta3", "sgpo", "", ("qwen-m",)),
        ("beats_srft", "sgpo", "srft", "", ("qwen-m",)),
        ("initial_beats_grpo", "sgpo_initial", "grpo", "", ("qwen-m",)),
    )
    for key, ours, theirs, paper, models in pairs:
        for claim, model in zip(by_key(found, key)[: len(models)], models, strict=True):
            expected = average(root, model, ours) - average(root, model, theirs)
            assert claim.effect.mean == pytest.approx(expected, abs=1e-6)
            assert claim.paper == (paper or "not measured")
            assert claim.subject.lower() == model


def test_equal_tokens_interpolates_the_baseline_between_its_budgets(found, loaded):
    # Every run scores 7000 tokens a step, so SGPO's budget costs what SFT+GRPO's does.
    (claim,) = by_key(found, "equal_tokens")
    ours, theirs = (average(loaded.root, "qwen-m", m) for m in ("sgpo", "grpo"))
    assert claim.effect.mean == pytest.approx(ours - theirs, abs=1e-6)
    points = [
        (cost, estimates.accuracy(loaded, "qwen-m", "grpo", AVERAGE, None, budget))
        for cost, budget in zip((1.0, 10.0, 100.0, 1000.0), experiments.BUDGETS, strict=True)
    ]
    half_way = effects.interpolated(points, 10**1.5)
    assert half_way.mean == pytest.approx((points[1][1].mean + points[2][1].mean) / 2)
    assert effects.interpolated(points, 0.5) is None
    assert effects.interpolated(points, 2000.0) is None


def test_plan_and_kl_claims_are_counted(found):
    over_grpo, over_reverse = by_key(found, "right_plan")
    assert over_grpo.effect.mean == pytest.approx(
        100 * (np.mean(RIGHT["sgpo"]) - np.mean(RIGHT["grpo"]))
    )
    assert over_reverse.effect.mean > over_grpo.effect.mean
    (mass,) = by_key(found, "kl_on_decisions")
    share = {}
    for name in ("kl", "nll"):
        rows = [np.array([p[name] for p in steps(seed)["problems"]]) for seed in SEEDS]
        share[name] = np.mean([found[:, :2].sum() / found.sum() for found in rows])
    assert mass.effect.mean == pytest.approx(100 * (share["kl"] - share["nll"]))
    faster = [*by_key(found, "faster_adaptive"), *by_key(found, "faster_kl")]
    assert [c.unit for c in faster] == [TIMES, TIMES]
    assert all(c.effect.interval.low <= c.effect.mean <= c.effect.interval.high for c in faster)
    assert all(c.effect.mean > 0 for c in faster)


def test_alpha_entropy_and_guidance_are_the_means_of_the_curves(found, loaded):
    falls, gaps, kept = [], [], []
    for seed in SEEDS:
        ours, grpo = (
            pd.read_json(run_dir(loaded.root, "qwen-m", m, seed) / "metrics.jsonl", lines=True)
            for m in ("sgpo", "grpo")
        )
        first, last = ours[: STEPS // 4], ours[-STEPS // 4 :]
        falls.append(first.alpha_mean.mean() - last.alpha_mean.mean())
        kept.append(100 * (last.guided_reward.mean() - first.guided_reward.mean()))
        gaps.append(ours.entropy[STEPS // 2 :].mean() - grpo.entropy[STEPS // 2 :].mean())
    for key, values in (("alpha_falls", falls), ("entropy_above", gaps), ("guidance_kept", kept)):
        (claim,) = (c for c in by_key(found, key) if c.subject == "Qwen-M")
        expected = stats.Mean.over_units(values).interval()
        assert claim.effect.mean == pytest.approx(np.mean(values))
        assert claim.effect.interval.low == pytest.approx(expected.low)


# With as many seeds as a verdict takes ------------------------------------------------------------


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("five") / "mini", seeds=(0, 1, 2, 3, 4))


def test_claims_hold_where_the_world_was_built_so(five):
    found = claims.evaluate(load_study(five))
    verdicts = {key: {c.verdict for c in by_key(found, key)} for key in (c.key for c in found)}
    assert [*verdicts] == ["best_on_average", "gain_grows", "alpha_falls", "entropy_above",
                           "guidance_kept", "equal_tokens"]  # fmt: skip
    assert verdicts["best_on_average"] == verdicts["entropy_above"] == {stats.HOLDS}
    assert verdicts["alpha_falls"] == {stats.BUILT_IN}

    def mean(model: str, method: str) -> float:
        return average(five, model, method, (None,) if method == "base" else range(5))

    best = by_key(found, "best_on_average")[0]
    margin = mean("qwen-s", "sgpo") - max(mean("qwen-s", m) for m, _ in METHODS if m != "sgpo")
    assert best.effect.mean == pytest.approx(margin, abs=1e-5)
    assert best.paper == "+1.1 to +2.2 points on three models"
    (gain,) = by_key(found, "gain_grows")
    large, small = (mean(m, "sgpo") - mean(m, "base") for m in ("qwen-m", "qwen-s"))
    assert gain.effect.mean == pytest.approx(large - small, abs=1e-5)
    assert gain.subject == "Qwen-M vs Qwen-S" and gain.paper == "+3.2 points (7B vs 1.5B)"


def test_a_reversed_ranking_fails_and_the_report_says_so(five, tmp_path):
    root = Path(shutil.copytree(five, tmp_path / "mini"))
    for seed in range(5):  # SGPO and HPT exchange their scores, and SFT+GRPO gets SGPO's, too
        ours, hpt, copied, grpo = (
            run_dir(root, model, method, seed) / "scores.json"
            for model, method in (("qwen-m", "sgpo"), ("qwen-m", "hpt"), ("llama-m", "sgpo"),
                                  ("llama-m", "grpo"))
        )  # fmt: skip
        tables = [load(path)["benchmarks"] for path in (ours, hpt, copied)]
        for path, table in zip((hpt, ours, grpo), tables, strict=True):
            change(path, lambda s, table=table: s.update(benchmarks=table))
    loaded = load_study(root)
    small, reversed_, equal = by_key(claims.evaluate(loaded), "best_on_average")
    assert reversed_.verdict == stats.FAILS and reversed_.corrected >= reversed_.p
    assert equal.verdict == stats.EQUIVALENT and equal.effect.of.detectable() == 0.0
    head = headline.best(claims.evaluate(loaded))
    assert f"{small.verdict} on Qwen-S; {stats.FAILS} on Qwen-M; " in head
    assert "the best of 6 other rows and for" in head
    said = headline.against(loaded)
    assert said.startswith("SGPO is ahead of SFT+GRPO on Qwen-S (+")
    assert "; stays behind SFT+GRPO on Qwen-M (-" in said
    assert "cannot be told from SFT+GRPO on Llama-M (+0.0 [0.0, 0.0])" in said


def test_a_study_of_more_seeds_beside_it_is_told_from_its_own_runs(five, plain_study, tmp_path):
    for name, source in (("mini", plain_study[0]), ("more", five)):
        shutil.copytree(source, tmp_path / name)
    small, large = (load_study(tmp_path / name) for name in ("mini", "more"))
    assert headline.beside(small) == ""  # it is a directory of the user's own
    for name in ("mini", "more"):
        publish(tmp_path / name)
    small, large = (load_study(tmp_path / name) for name in ("mini", "more"))
    link = "Over 5 seeds, 3 of them these ([more/REPORT.md](../more/REPORT.md)): "
    assert headline.beside(small).startswith(f"{link}{headline.against(large)}")
    assert headline.best(claims.evaluate(large)) in headline.beside(small)
    assert "more/REPORT.md" in claims_page.page(small, claims.evaluate(small))
    assert "over 3 seeds: [mini/REPORT.md](../mini/REPORT.md)" in headline.beside(large)
    shutil.rmtree(tmp_path / "more")
    assert headline.beside(load_study(tmp_path / "mini")) == ""


# Pages --------------------------------------------------------------------------------------------


def test_the_page_has_each_claim_once_in_the_summary_and_once_in_detail(found, loaded):
    text = claims_page.page(loaded, found)
    assert "no evidence about 7B models" in text.splitlines()[2]
    assert "One world: seeds only" in text and "fewer than 5 seeds" in text
    head, details = text.split("## How each claim is measured")
    rows = [line.split(" | ") for line in head.splitlines() if line.count(" | ") == 7]
    rows = [cells for cells in rows if cells[2].startswith("**")]
    assert [cells[1].partition(" (best of ")[0] for cells in rows] == [v.subject for v in found]
    assert rows[0][1] == "Qwen-S (best of 6 picked)" and "multiplied by k first" in head
    for cells, test in zip(rows, found, strict=True):
        assert cells[2] == f"**{test.verdict}**"
        assert cells[3].startswith(f"[{test.text()}](REPORT.md#runs-")
    for words in claims_page.by_statement(found):
        statement = claims_page.sentence(words)
        assert head.count(f"[{statement}](#claim-") == details.count(f"### {statement} (") == 1


# A missing run -----------------------------------------------------------------------------------


def test_a_claim_whose_run_is_gone_is_not_run_and_no_other(variant_copy, found):
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo_nll", 2))
    after = claims.evaluate(load_study(variant_copy))
    lost = {(c.key, c.subject) for c in after if c.verdict == "not run"}
    of_nll = ("kl_beats_sft", "faster_kl", "no_mask", "mask_costs")
    assert lost == {(key, "Qwen-M") for key in of_nll}
    for now, once in zip(after, found, strict=True):
        assert now.verdict == "not run" or now.text() == once.text()


def test_texts_of_effects(loaded):
    assert verdict(score(-0.02, spread=0.05)).text().startswith("+0.0 points [-0.1, ")
    assert verdict(score(0.2, spread=0.0), "alpha").text() == "+0.200 alpha [0.200, 0.200]"
    low, mean, high = re.findall(r"[\d.]+", verdict(score(0.0, spread=0.1), TIMES).text())
    assert float(mean) * float(high) == pytest.approx(1.0, abs=0.02) and low == "1.00"
    assert verdict().text() == verdict().verdict == "not run"
    alone = verdict(Score(Mean.over_units([3.0]), (next(iter(loaded.runs)),)))  # has no interval
    assert alone.text() == "+3.0 points"
    (line,) = claims_page.summary_tables(loaded, [alone])[0].rows
    assert line[3].text == "+3.0 points" and line[6].text == ""
    (record,) = csv.DictReader(csv_text(frame(claims_page.records([alone]))).splitlines())
    assert record["effect"] == "3.0"
    assert record["ci_low"] == record["ci_high"] == record["detectable"] == ""
