"""Problem sets of the mini world: sizes, disjointness, and answers worked out a second way."""

from collections import Counter

import pytest

from sgpo.mini.suites import (
    BENCHMARKS,
    benchmark_problems,
    development_problems,
    training_problems,
)

# type -> (order, factor of the later values, finish), written down by hand for three types
TABLE = {
    "Aldric": ("rotated", 7, lambda v: v - 1),
    "Kelvo": ("forwards", 1, lambda v: -v),
    "Cedra": ("backwards", -1, lambda v: v - 1),
}


def independent_answer(question: str) -> str | None:
    """The answer from the question's text by a second implementation; None for other types."""
    words = question.split()
    kind, digits = words[2], [int(d) for d in words[-1]]
    if kind not in TABLE or " and " in question:
        return None
    order, factor, finish = TABLE[kind]
    if order == "rotated":
        digits.append(digits.pop(0))
    if order == "backwards":
        digits.reverse()
    last = digits[0] + factor * sum(digits[1:])
    return f"({finish(last - factor * digits[-1]) % 10},{finish(last) % 10})"


@pytest.fixture(scope="module")
def sets():
    return {
        "warmup": training_problems("warmup", expert_gap=0.1),
        "rl": training_problems("rl", expert_gap=0.1),
        "dev": development_problems(),
        **{bench.key: benchmark_problems(bench.key) for bench in BENCHMARKS},
    }


def test_sizes(sets):
    assert {name: len(problems) for name, problems in sets.items()} == {
        "warmup": 512,
        "rl": 1024,
        "dev": 304,
        "minimath": 500,
        "miniamc": 40,
        "miniolympiad": 674,
        "miniaime": 30,
    }
    assert [bench.k for bench in BENCHMARKS] == [4, 32, 4, 32]


def test_no_question_and_no_id_occurs_twice_anywhere(sets):
    everything = [p for problems in sets.values() for p in problems]
    assert len({p.question for p in everything}) == len(everything)
    assert len({p.id for p in everything}) == len(everything)


def test_digits_of_test_problems_never_occur_in_training_whatever_the_type(sets):
    def digits(p):
        return tuple(w for w in p.question.split() if w.isdigit())

    train = {digits(p) for name in ("warmup", "rl") for p in sets[name] if p.level <= 3}
    for name in ("dev", "minimath", "miniamc"):
        assert not train & {digits(p) for p in sets[name]}, name


def test_answers_agree_with_a_second_implementation(sets):
    checked = 0
    for problems in sets.values():
        for p in problems:
            expected = independent_answer(p.question)
            if expected is not None:
                assert p.answer == expected, p.question
                checked += 1
    assert checked > 300


def test_only_training_problems_carry_strategies_and_traces(sets):
    for name, problems in sets.items():
        training = name in ("warmup", "rl")
        assert all((p.strategy is not None) == training for p in problems)
        assert all((p.expert is not None) == training for p in problems)


def test_types_and_levels_balance(sets):
    counts = Counter(p.kind for p in sets["rl"])
    assert set(counts.values()) == {64}
    assert {p.level for p in sets["rl"]} == {1, 2, 3}
    assert all(" and " in p.question for p in sets["miniolympiad"] + sets["miniaime"])


def test_gap_changes_traces_only():
    full, gapped = (training_problems("rl", expert_gap=gap) for gap in (0.0, 0.3))
    for a, b in zip(full, gapped, strict=True):
        assert (a.question, a.strategy, a.answer) == (b.question, b.strategy, b.answer)
        assert len(b.expert) <= len(a.expert)
    assert sum(a.expert != b.expert for a, b in zip(full, gapped, strict=True)) > 300


def test_expert_traces_end_in_the_gold_answer(sets):
    for p in sets["warmup"] + sets["rl"]:
        assert p.expert.endswith(f"\\boxed{{{p.answer}}}")


def test_seed_changes_the_pool_and_repeats_itself():
    assert training_problems("warmup", 0.1, seed=1) == training_problems("warmup", 0.1, seed=1)
    assert training_problems("warmup", 0.1, seed=1) != training_problems("warmup", 0.1, seed=2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: training_problems("test", 0.1), "'test'.*'warmup' or 'rl'"),
        (lambda: training_problems("rl", 1.5), "1.5"),
        (lambda: benchmark_problems("aime"), "'aime'.*miniaime"),
    ],
)
def test_mistakes_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
