"""What is read off worlds and ledgers, against rules that the synthetic worlds follow by hand."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_worlds import FLAT, SEEDS, TYPES, offered, prior, write_worlds

from benchmarks.report import worlds
from benchmarks.report.figures import delta_classes
from benchmarks.store.load import load_study


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
