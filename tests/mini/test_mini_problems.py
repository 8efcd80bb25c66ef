"""The arithmetic of the mini world against hand-worked examples, and its guarantees by counting."""

from collections import Counter
from itertools import product

import pytest

from sgpo.mini.problems import (
    FINISHES,
    SLOTS,
    TYPES,
    Plan,
    Task,
    apply_plan,
    finish_pair,
    reorder,
    running_values,
    slot_distribution,
    solve,
)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("forwards", (3, 1, 4, 5, 9)),
        ("backwards", (9, 5, 4, 1, 3)),
        ("rotated", (1, 4, 5, 9, 3)),
        ("swapped", (1, 3, 5, 4, 9)),
    ],
)
def test_orders(order, expected):
    assert reorder(order, (3, 1, 4, 5, 9)) == expected


@pytest.mark.parametrize(
    ("combine", "expected"),
    [  # 7, 2, 6: 7+2=9, 9+6=15 | 7-2=5, 5-6=-1 | 7+6=13, 3+18=21 | 7+14=21, 1+42=43
        ("sum", (7, 9, 5)),
        ("difference", (7, 5, 9)),
        ("threefold", (7, 3, 1)),
        ("sevenfold", (7, 1, 3)),
    ],
)
def test_running_values(combine, expected):
    assert running_values(combine, (7, 2, 6)) == expected


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("increase", (5, 0)), ("decrease", (3, 8)), ("triple", (2, 7)), ("negate", (6, 1))],
)
def test_finishes(finish, expected):
    assert finish_pair(finish, (4, 9)) == expected


@pytest.mark.parametrize("finish", FINISHES)
def test_every_finish_is_a_bijection_of_the_pair(finish):
    images = {finish_pair(finish, pair) for pair in product(range(10), repeat=2)}
    assert len(images) == 100


def test_solve_by_hand_and_under_other_plans():
    # Aldric: rotated, sevenfold, decrease. 3 1 4 -> 1 4 3 -> 1, 1+28=29, 9+21=30 -> (9-1, 0-1)
    task = Task("Aldric", (3, 1, 4))
    assert solve(task) == (8, 9)
    # forwards, sum, negate: 3, 4, 8 -> (-4, -8) = (6, 2)
    assert solve(task, (Plan("forwards", "sum", "negate"),)) == (6, 2)


def test_composition_feeds_the_inner_pair_to_the_end_of_the_outer_list():
    # Garek: swapped, sum, triple. Outer list: 5, then the inner pair (8, 9): swapped 8 5 9,
    # sums 8, 13=3, 12=2 -> (9, 6)
    assert solve(Task("Garek", (5,), Task("Aldric", (3, 1, 4)))) == (9, 6)


@pytest.mark.parametrize("length", [3, 4])
def test_no_answer_is_more_frequent_than_one_in_a_hundred(length):
    lists = list(product(range(10), repeat=length))
    for problem_type in TYPES:
        counts = Counter(apply_plan(problem_type.plan, values) for values in lists)
        assert max(counts.values()) == len(lists) // 100, problem_type.name


def test_plans_are_distinct_and_share_their_parts_evenly():
    assert len(TYPES) >= 16
    assert len({t.plan for t in TYPES}) == len({t.name for t in TYPES}) == len(TYPES)
    for slot, options in enumerate(SLOTS):
        assert Counter(t.plan.choices[slot] for t in TYPES) == dict.fromkeys(options, 4)


def test_two_choices_do_not_give_away_the_third():
    for hidden in range(3):
        seen = {}
        for t in TYPES:
            known = tuple(c for slot, c in enumerate(t.plan.choices) if slot != hidden)
            seen.setdefault(known, set()).add(t.plan.choices[hidden])
        assert any(len(choices) > 1 for choices in seen.values())


def test_wrong_plans_give_wrong_answers_nearly_always():
    lists = list(product(range(10), repeat=3))
    right = TYPES[0].plan
    for other in TYPES[1:]:
        same = sum(apply_plan(right, v) == apply_plan(other.plan, v) for v in lists)
        assert same / len(lists) <= 0.2, other.name


def test_priors_are_distributions_that_favour_the_right_choice_least_for_hard_types():
    for t in TYPES:
        for slot in range(3):
            distribution = slot_distribution(t.name, slot)
            assert set(distribution) == set(SLOTS[slot])
            assert sum(distribution.values()) == pytest.approx(1.0)
            assert distribution[t.plan.choices[slot]] == t.prior[slot]
    # (0.98 - 0.25) * 0.5 + 0.25 = 0.615; 0.75 split 5:3:2 is 0.375, 0.225, 0.15
    assert slot_distribution("Aldric", 0, 0.5)["rotated"] == pytest.approx(0.615)
    blind = sorted(slot_distribution("Aldric", 0, 0.0).values())
    assert blind == pytest.approx([0.15, 0.225, 0.25, 0.375])
    priors = [min(t.prior) for t in TYPES]
    assert min(priors) <= 0.3 and max(priors) >= 0.75


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("Nobody", (1, 2, 3)), "Nobody"),
        (("Aldric", (1, 12, 3)), "12"),
        (("Aldric", (1, 2)), "3 values"),
    ],
)
def test_a_bad_task_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Task(*arguments)


def test_a_bad_choice_is_named():
    with pytest.raises(ValueError, match="sideways.*forwards"):
        Plan("sideways", "sum", "negate")
