"""What is read off worlds and ledgers, against rules that the synthetic worlds follow by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import change, load, run_dir
from synthetic_worlds import FLAT, SEEDS, TYPES, offered, prior, write_worlds

from benchmarks.cli import main
from benchmarks.report import estimates, explain_gap, headline, pages, regime, worlds
from benchmarks.report.figures import gains, mechanism
from benchmarks.report.tables import records
from benchmarks.store.load import load_study
from benchmarks.store.stats import slope, units_needed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_worlds(tmp_path_factory.mktemp("worlds") / "mini")


@pytest.fixture(scope="module")
def study(root):
    return load_study(root)


def by_prior(seed: int) -> list[str]:
    return sorted(TYPES, key=lambda kind: prior(seed, kind))


def test_a_third_of_the_problems_is_by_all_plans_that_they_need(study):
    thirds = worlds.thirds_of_problems(study, 2, "long")
    kinds = [{TYPES[i % 12], TYPES[(i + 5) % 12]} for i in range(15)]
    needed = [np.prod([prior(2, kind) for kind in named]) for named in kinds]
    order = np.argsort(needed, kind="stable")
    assert thirds[order].tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_the_masked_share_is_of_the_kl_that_was_offered(study):
    """At delta 1 in world 3: the choices of the easiest third that lie above it."""
    kls = [offered(3, kind, "order") for kind in by_prior(3)[-4:]]
    expected = 100 * sum(kl for kl in kls if kl > 1) / sum(kls)
    assert 0 < expected < 100
    found = worlds.masked_share(study, "qwen-m", "sgpo", ["easy"], [3])
    assert found.mean == pytest.approx(expected)
    everything = worlds.masked_share(study, "qwen-m", "sgpo_delta2", [*worlds.CLASSES])
    shares = []
    for seed in SEEDS:
        kls = [2 * offered(seed, kind, "order") for kind in TYPES for _ in range(3)]
        masked = sum(kl for kl in kls if kl > 4)
        shares.append(100 * masked / (sum(kls) + 12 * sum(FLAT.values())))
    assert everything.of.units == pytest.approx(shares)
    assert worlds.masked_share(study, "qwen-m", "grpo", ["easy"]) is None


def test_the_figure_of_delta_draws_each_class_and_says_it(study):
    choices, others, _ = mechanism.DELTA.draw(study).axes
    assert {line.get_label() for line in choices.lines} >= {
        x[1] for x in mechanism.MASKS["masked of choices"]
    }
    drawn = {
        line.get_label(): line.get_ydata() for line in others.lines if len(line.get_ydata()) == 7
    }
    assert drawn["first token of a completion"].tolist() == [100, 100, 100, 0, 0, 0, 0]
    assert drawn["every other token"].tolist() == [0] * 7
    hard = worlds.masked_share(study, "qwen-m", "sgpo", ["hard"]).mean
    assert f"δ = 1 masks {hard:.0f}% of the KL" in mechanism.delta_message(study)


# explain-gap -------------------------------------------------------------------------------------


def scored(root, method: str, seed: int, key: str, at: str = "") -> np.ndarray:
    """Percent right of each problem, straight from the letters."""
    scores = load(run_dir(root, "qwen-m", method, seed) / "scores.json")["benchmarks"]
    return np.array([100 * w.count("c") / len(w) for w in scores[key + at]["verdicts"]])


def parts(lines, part: str) -> dict[str, explain_gap.Line]:
    return {line.name: line for line in lines if line.part == part}


def test_a_gap_is_taken_apart_by_what_adds_up_to_it(root, study):
    pair = explain_gap.pair_of(study, "sgpo", "grpo", None)
    assert (pair.model, pair.seeds) == ("qwen-m", SEEDS)
    lines = explain_gap.lines_of(pair)
    whole = lines[0].difference
    for part in (explain_gap.BENCHMARK, explain_gap.DIFFICULTY):
        assert sum(line.adds for line in parts(lines, part).values()) == pytest.approx(whole.mean)
    long = parts(lines, "benchmark")["Long compositions"]
    gaps = [np.subtract(*(scored(root, m, s, "long").mean() for m in pair.methods)) for s in SEEDS]
    assert long.difference.of.units == pytest.approx(gaps)
    half = parts(lines, "budget")["0.5 x the steps"].sides[1]
    keys = [b.key for b in study.benchmarks]
    means = [np.mean([scored(root, "grpo", s, k, "@0.5").mean() for k in keys]) for s in SEEDS]
    assert half.of.units == pytest.approx(means)
    hard = parts(lines, "problems")["hardest third"].sides[0]
    found = [
        np.mean([scored(root, "sgpo", s, k)[worlds.thirds_of_problems(study, s, k) == 0].mean()
                 for k in keys]) for s in SEEDS
    ]  # fmt: skip
    assert hard.of.units == pytest.approx(found)
    assert "KL masked, %" in {line.part for line in lines if line.difference is None}


def test_types_learned_and_what_was_masked_of_them(root, study, tmp_path, monkeypatch):
    """Against the problems and the ledger themselves, with a bar that splits the types."""
    monkeypatch.setattr(explain_gap, "LEARNED", 0.75)
    out = tmp_path / "types.csv"
    words = ["explain-gap", "sgpo", "grpo", "--out", str(root), "--types", str(out)]
    assert main(words) == 0
    found = pd.read_csv(out).set_index(["world", "type"])
    problems = pd.read_parquet(root / "problems.parquet")
    problems = problems[~problems.types.str.contains(" ")]
    learned, masked = [], []
    for seed in SEEDS:
        of_world = problems[problems.seed == seed]
        right = [
            scored(root, "sgpo", seed, key)[rows.problem.to_numpy()]
            for key, rows in of_world.groupby("benchmark", sort=False)
        ]
        keys = of_world.groupby("benchmark", sort=False)
        types = np.concatenate([rows.types.to_numpy() for _, rows in keys])
        rates = pd.Series(np.concatenate(right) / 100).groupby(types).mean()
        assert found.loc[seed].sgpo.to_dict() == pytest.approx(rates.to_dict(), rel=1e-5)
        learned.append(100 * (rates >= 0.75).mean())
        ledger = load(run_dir(root, "qwen-m", "sgpo", seed) / "ledger.json")
        kl = {t: [p.get(c) for c in ("order", "combine", "finish")] for t, p in ledger.items()}
        sums = np.array([
            [s[name] for name in ("kl", "kl_masked")]
            for t, places in kl.items() if rates[t] < 0.75 for s in places if s
        ])  # fmt: skip
        masked.append(100 * sums[:, 1].sum() / sums[:, 0].sum())
    lines = explain_gap.lines_of(explain_gap.pair_of(study, "sgpo", "grpo", None))
    (line,) = parts(lines, explain_gap.TYPES).values()
    assert line.sides[0].of.units == pytest.approx(learned)
    others = parts(lines, "KL masked, %")["choices of types it has not"]
    assert others.sides[0].of.units == pytest.approx(masked) and others.sides[1] is None


def test_the_account_is_printed_and_drawn_and_mistakes_are_one_line(
    root, tmp_path, capsys, refused
):
    out, words = tmp_path / "gap.png", ["explain-gap", "sgpo", "sgpo_no_clip", "--out", str(root)]
    assert main([*words, "--figure", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "SGPO minus SGPO w/o KL clipping on Qwen-M, 6 worlds:" in text and out.exists()
    assert "SGPO masks 100% of the KL, SGPO w/o KL clipping 0%" in text
    copy = Path(shutil.copytree(root, tmp_path / "mini"))
    shutil.rmtree(run_dir(copy, "qwen-m", "grpo", 5))
    for words, complaint in (
        (["sgpo", "nobody"], "nobody: must be a method of the study: base, sft"),
        (["sgpo", "sgpo_nll", "--model", "qwen-s"], "must be one that both have: qwen-m"),
        (["sgpo", "grpo", "--model", "qwen-m"], "not all of its runs are there"),
    ):
        refused(["explain-gap", *words, "--out", str(copy)], complaint)


def test_direct_sft_masks_nothing_and_what_is_left_out_teaches_nothing(root, tmp_path):
    shutil.copytree(root, tmp_path / "mini", ignore=shutil.ignore_patterns("samples"))
    study = load_study(tmp_path / "mini")
    run = study.runs_of("qwen-m", "sgpo", scored=True)[0]
    for settings, name, share in (
        ({"distillation": "nll"}, "opening", 0.0),
        ({"distillation": "nll_masked"}, "opening", 1.0),
        ({"leave_out": "routine"}, "routine", 1.0),
        ({"leave_out": "choice"}, "easy", 1.0),
        ({}, "routine", 0.0),
    ):
        change(run.stored.path / "config.json", lambda c, s=settings: c.update(settings=s))
        _, offered, masked = worlds.kl_by_class(study, run)[name]
        assert masked == pytest.approx(share * offered)


# When SGPO wins, and what worlds leave to learn --------------------------------------------------


def test_a_slope_is_a_standard_deviations_with_the_t_of_its_worlds():
    """By hand: x of 1..5 has the deviation sqrt(2.5) and y rises by 2 in it, but for errors whose
    squares add up to 4; t of 3 degrees of freedom is 3.18245."""
    x, errors = np.arange(1.0, 6.0), np.array([1.0, -1.0, 0.0, -1.0, 1.0])
    assert errors @ x == pytest.approx(0)
    found = slope(x, 7 + 2 * x + errors)
    half = 3.18245 * np.sqrt(4 / 3 / 10)
    bounds = [np.sqrt(2.5) * value for value in (2, 2 - half, 2 + half)]
    assert (found.mean, found.low, found.high) == pytest.approx(bounds, rel=1e-4)
    assert np.isnan(slope([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).mean)


def test_what_the_gain_is_held_against(study):
    found = gains.when(study, "grpo")
    gaps = np.stack(
        [
            np.subtract(*(
                estimates.accuracy(study, "qwen-m", m, "average", None, b).of.units
                for m in ("sgpo", "grpo")
            ))
            for b in (0.25, 0.5, 1.0, 2.0)
        ]
    )  # fmt: skip
    # By hand: least squares over log2 of the budget, whose places are half a step around 0.
    slopes = np.array([-1.5, -0.5, 0.5, 1.5]) @ gaps / 5
    assert found["twice the budget"].mean == pytest.approx(slopes.mean())
    fidelity = 0.8 + 0.03 * np.array(SEEDS)
    expected = np.polyfit(fidelity, gaps[2], 1)[0] * fidelity.std(ddof=1)
    assert found["teacher more faithful, +1 SD"].mean == pytest.approx(expected)
    gap = [
        np.subtract(*(
            worlds.accuracy_of_third(study, run, 0) - worlds.accuracy_of_third(study, run, 2)
            for run in (study.runs_of("qwen-m", m, scored=True)[s] for m in ("sgpo", "grpo"))
        )) for s in SEEDS
    ]  # fmt: skip
    assert found["hardest third of problems\nminus easiest"].mean == pytest.approx(np.mean(gap))
    assert "twice the budget" not in gains.when(study, "sgpo_nll")
    assert f"{found['twice the budget'].mean:+.1f} [" in gains.when_message(study)
    (axis,) = gains.WHEN.draw(study).axes
    assert [len(c.lines[0].get_xdata()) for c in axis.containers] == [len(found), len(found) - 1]


def test_where_sgpo_is_ahead_is_by_its_interval_in_each_third_and_at_each_budget(study):
    found = headline.places(study, "qwen-m", "sgpo")
    assert [*found] == ["hardest third", "middle third", "easiest third",
                        "0.25 x budget", "0.5 x budget", "1 x budget", "2 x budget"]  # fmt: skip
    gap = estimates.gain(study, "qwen-m", "sgpo", "grpo")
    assert found["1 x budget"].text() == gap.text() and gap.interval.low > 0
    ours = headline.ahead(study)[0]
    assert f"1 x budget {gap.text()}" in ours
    for name, score in found.items():
        assert (f"{name} {score.text()}" in ours) == (score.interval.low > 0)
    change = gains.when(study, "grpo")["twice the budget"]
    words = {"is ahead of": "gains ground", "stays behind": "loses ground"}
    expected = words.get(headline.side(change), "no trend can be told")
    assert expected in headline.over_budgets(study)


def test_the_regime_is_of_the_worlds_of_the_study(study):
    found = regime.of_study(study)
    assert {r["world"] for r in found} == {"mean", *SEEDS}
    share = [sum(0.15 <= min(1, 4 * prior(s, t)) <= 0.85 for t in TYPES) / 12 for s in SEEDS]
    fifth = next(r for r in regime.means(found) if r["condition"].startswith("5"))
    assert fifth["value"] == pytest.approx(np.mean(share))
    assert (fifth["holding"], fifth["worlds"]) == (sum(x >= 0.5 for x in share), len(SEEDS))
    fewer = replace(study, runs={i: r for i, r in study.runs.items() if r.cell.seed in (1, 2)})
    fifth = next(r for r in regime.means(regime.of_study(fewer)) if r["condition"][0] == "5")
    assert fifth["value"] == pytest.approx(np.mean(share[1:3])) and fifth["worlds"] == 2
    table = records.REGIME.table(study, records.REGIME.rows(study))
    assert len(table.rows) == 3 * len(regime.CONDITIONS)
    assert "read the results with care: Qwen-S: " in pages.regime_sentence(study)


# Power -------------------------------------------------------------------------------------------


def test_every_pair_has_a_row_with_the_worlds_that_it_needs(root, study, tmp_path, capsys, refused):
    assert main(["power", "--effect", "5", "--out", str(root)]) == 0
    text = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| Q")]
    assert len(rows) == 2 * 6 and "found (two-sided, p below 0.05) in 80 of 100" in text
    gain = estimates.gain(study, "qwen-m", "sgpo", "grpo")
    row = next(r for r in rows if r[:2] == ["Qwen-M", "SGPO - SFT+GRPO"])
    assert row[2:4] == ["6", f"{gain.mean:+.1f}"] and row[6] == f"{gain.of.detectable():.1f}"
    assert row[7] == str(units_needed(gain.of, 5.0, own_problems=True))
    refused(
        f"power --effect 0 --out {root}",
        "--effect 0: must be a number of points above 0",
    )
    assert main(["power", "--effect", "1", "--out", str(tmp_path)]) == 2
