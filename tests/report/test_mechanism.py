"""What is read off worlds and ledgers, against rules that the synthetic worlds follow by hand."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from synthetic_study import change, load, run_dir
from synthetic_worlds import FLAT, SEEDS, TYPES, offered, prior, write_worlds

from benchmarks.cli import main
from benchmarks.report import estimates, explain_gap, worlds
from benchmarks.report.figures import delta_classes, regime, when
from benchmarks.store.load import load_study
from benchmarks.store.runs import StudyError
from benchmarks.store.stats import slope


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_worlds(tmp_path_factory.mktemp("worlds") / "mini")


@pytest.fixture(scope="module")
def study(root):
    return load_study(root)


def by_prior(seed: int) -> list[str]:
    return sorted(TYPES, key=lambda kind: prior(seed, kind))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_of_the_types_is_that_of_their_world(study, seed):
    thirds = worlds.thirds_of_types(study, seed)
    names = by_prior(seed)
    assert [thirds[name] for name in names] == ["hard"] * 4 + ["middle"] * 4 + ["easy"] * 4


def test_thirds_are_of_all_types_where_few_problems_are_asked(study):
    few = tuple(dataclasses.replace(b, num_problems=2) for b in study.benchmarks)
    cut = dataclasses.replace(study, benchmarks=few)
    assert worlds.thirds_of_types(cut, 3) == worlds.thirds_of_types(study, 3)
    with pytest.raises(StudyError, match="lacks the types of world 77"):
        worlds.thirds_of_types(study, 77)


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
    left, _ = delta_classes.figure(study).axes[:2]
    drawn = {
        line.get_label(): line.get_ydata() for line in left.lines if len(line.get_ydata()) == 7
    }
    assert drawn["first token of a completion"].tolist() == [100, 100, 100, 0, 0, 0, 0]
    assert drawn["all other tokens"].tolist() == [0] * 7
    hard = worlds.masked_share(study, "qwen-m", "sgpo", ["hard"]).mean
    assert f"δ = 1 masks {hard:.0f}% of the KL" in delta_classes.message(study)


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


def test_runs_are_compared_in_their_world_and_mistakes_are_one_line(root, study, tmp_path, capsys):
    runs = [run_dir(root, "qwen-m", method, 2).name for method in ("sgpo", "sgpo_no_clip")]
    out = tmp_path / "gap.png"
    assert main(["explain-gap", *runs, "--out", str(root), "--figure", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "SGPO minus SGPO w/o KL clipping on Qwen-M, 1 world:" in text and out.exists()
    assert "SGPO masks 100% of the KL, SGPO w/o KL clipping 0%" in text
    other = run_dir(root, "qwen-m", "grpo", 3).name
    for words, complaint in (
        (["sgpo", "nobody"], "nobody: must be two runs, or two methods of base, sft"),
        ([runs[0], other], "must be runs of one model and seed"),
        (["sgpo", "sgpo_nll", "--model", "qwen-s"], "must be one that both have: qwen-m"),
    ):
        assert main(["explain-gap", *words, "--out", str(root)]) == 2
        assert complaint in capsys.readouterr().err


def test_two_runs_need_no_other_world_of_their_methods(root, tmp_path):
    shutil.copytree(root, tmp_path / "mini", ignore=shutil.ignore_patterns("samples"))
    shutil.rmtree(run_dir(tmp_path / "mini", "qwen-m", "grpo", 5))
    study = load_study(tmp_path / "mini")
    runs = [run_dir(root, "qwen-m", method, 2).name for method in ("sgpo", "grpo")]
    whole = explain_gap.lines_of(explain_gap.pair_of(study, *runs, None))[0].difference
    keys = [b.key for b in study.benchmarks]
    ours, theirs = (np.mean([scored(root, m, 2, k).mean() for k in keys]) for m in ("sgpo", "grpo"))
    assert whole.mean == pytest.approx(ours - theirs)
    with pytest.raises(ValueError, match="not all of its runs are there"):
        explain_gap.lines_of(explain_gap.pair_of(study, "sgpo", "grpo", None))


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
    found = when.effects(study, "grpo")
    gains = {
        b: np.subtract(*(
            estimates.accuracy(study, "qwen-m", m, "average", None, b).of.units
            for m in ("sgpo", "grpo")
        )) for b in (0.25, 0.5, 1.0, 2.0)
    }  # fmt: skip
    each = np.polyfit([-2, -1, 0, 1], np.stack([*gains.values()]), 1)[0]
    assert found["twice the budget"].mean == pytest.approx(each.mean())
    fidelity = 0.8 + 0.03 * np.array(SEEDS)
    expected = np.polyfit(fidelity, gains[1.0], 1)[0] * fidelity.std(ddof=1)
    assert found["teacher more faithful, +1 SD"].mean == pytest.approx(expected)
    gap = [
        np.subtract(*(
            worlds.accuracy_of_third(study, run, 0) - worlds.accuracy_of_third(study, run, 2)
            for run in (study.runs_of("qwen-m", m, scored=True)[s] for m in ("sgpo", "grpo"))
        )) for s in SEEDS
    ]  # fmt: skip
    assert found["hardest third of problems\nminus easiest"].mean == pytest.approx(np.mean(gap))
    assert "twice the budget" not in when.effects(study, "sgpo_nll")
    assert f"{found['twice the budget'].mean:+.1f} [" in when.message(study)
    right = when.figure(study).axes[1]
    assert [text.get_text() for text in right.texts] == ["not run"]


def test_the_types_of_each_world_are_counted_at_each_stage(study):
    found = regime.shares(study, "qwen-m", "grpo", "unguided")
    for seed in SEEDS:
        rates = [min(1.0, 4 * prior(seed, kind)) for kind in TYPES]
        low, high = (sum(rate < 0.15 for rate in rates), sum(rate > 0.85 for rate in rates))
        assert found[seed] * 12 == pytest.approx([low, 12 - low - high, high])
    assert "SFT+GRPO leaves open: Qwen-S 42% to 42% of the types" in regime.message(study)
