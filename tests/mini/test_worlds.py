"""Worlds: one right plan a type by counting, what a seed draws, lessons."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.profiles.mini import TABLE_MODELS
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import CompactSampler
from sgpo.mini import foundation, models, sets, teacher, window, world
from sgpo.mini.foundation import FoundationConfig, Learner, LessonConfig, encode
from sgpo.mini.models import build_model, build_tokenizer, model_config
from sgpo.mini.specs import BASES, MODELS
from sgpo.mini.world import NAMES, PLANS, SLOTS, Plan, agreement, apply_plan, draw_world
from sgpo.mini.writing import Task, derivation_lines, writer_text

TINY = replace(MODELS["qwen-s"], hidden_size=16, intermediate_size=32)


def test_agreement_counts_what_plans_answer():
    lists, some = list(product(range(10), repeat=3)), range(0, len(PLANS), 7)
    answers = {i: [apply_plan(PLANS[i], values) for values in lists] for i in some}
    for i, j in product(some, some):
        same = sum(x == y for x, y in zip(answers[i], answers[j], strict=True))
        assert agreement(3)[i, j] == pytest.approx(same / 1000)


def test_every_drawn_plan_is_the_only_right_one_on_every_length():
    """By counting all lists; plans that sum are what it throws out, twins among them:
    backwards and rotated lists have the same last value."""
    sound = np.array([plan in world.sound_plans() for plan in PLANS])
    for length in world.LIST_LENGTHS:
        others = agreement(length) - np.eye(len(PLANS))
        assert (others.max(1) <= world.MAX_AGREEMENT)[sound].all()
        assert (others.max(1) == 1.0)[~sound].sum() == 20  # an exact twin
    assert {plan.combine for plan, ok in zip(PLANS, sound, strict=True) if not ok} == {"sum"}


def test_a_seed_draws_a_world_within_the_declared_ranges():
    worlds = [draw_world(seed) for seed in range(40)]
    for drawn in worlds:
        assert len({t.plan for t in drawn.types}) == len(drawn.types) == 64
        assert world.FIDELITY[0] <= drawn.fidelity <= world.FIDELITY[1]
        assert world.STYLE[0] <= drawn.style <= world.STYLE[1]
        assert world.LEAK[0] <= drawn.leak <= world.LEAK[1]
        for t in drawn.types:
            assert all(sum(prior) == pytest.approx(1) for prior in t.priors)
            assert [len(prior) for prior in t.priors] == [len(slot) for slot in SLOTS]
            assert world.FOUND[0] * 0.999 <= t.found <= world.FOUND[1] * 1.001
    assert len({w.types[0].plan for w in worlds}) > 20
    # log-uniform: the median type is found at the geometric mean of the range
    found = np.median([t.found for w in worlds for t in w.types])
    assert found == pytest.approx(math.sqrt(world.FOUND[0] * world.FOUND[1]), rel=0.1)
    assert draw_world.__wrapped__(3) == draw_world(3)
    with pytest.raises(ValueError, match="world seed -1: must be at least 0"):
        draw_world(-1)


def style_kl(drawn: world.World) -> float:
    s, u = drawn.style, drawn.leak
    return s * math.log(s / u) + (1 - s) * math.log((1 - s) / (1 - u))


def choice_kl(drawn: world.World, prior: tuple[float, ...], right: int) -> float:
    f = drawn.fidelity
    guided = [f if i == right else (1 - f) / (len(prior) - 1) for i in range(len(prior))]
    return sum(g * math.log(g / p) for g, p in zip(guided, prior, strict=True))


def test_the_threshold_of_one_nat_masks_in_some_worlds_and_not_in_others():
    worlds = [draw_world(seed) for seed in range(60)]
    style = [style_kl(w) for w in worlds]
    assert 0.2 < np.mean([kl > 1 for kl in style]) < 0.9
    shares = []
    for drawn in worlds:
        choices = [
            choice_kl(drawn, t.priors[i], SLOTS[i].index(t.plan.choices[i]))
            for t in drawn.types
            for i in range(3)
        ]
        shares.append(np.mean([kl > 1 for kl in choices]))
    assert min(shares) < 0.01 < 0.15 < max(shares)


def test_texts_are_written_as_their_distributions_say():
    drawn, rng = draw_world(1), random.Random(4)
    task = Task("Aldric", (3, 1, 4))
    expected, seen = Counter(), Counter()
    for i in range(6000):
        _, completion, soft = writer_text(drawn, task, i % 2 == 0, rng)
        for place, distribution in soft.items():
            assert sum(distribution.values()) == pytest.approx(1)
            assert completion[place] in distribution
            seen[completion[place]] += 1
            for piece, probability in distribution.items():
                expected[piece] += probability
        hard = [piece for place, piece in enumerate(completion) if place not in soft]
        assert not {"Order", "Combine", "Finish", "Guess"} & set(hard)
    for piece, number in expected.items():
        assert seen[piece] == pytest.approx(number, abs=4.5 * math.sqrt(number) + 1), piece


def test_a_derivation_and_a_composition_read_as_worked_by_hand():
    inner = Task("Aldric", (3, 1, 4))
    plans = [Plan("rotated", "sevenfold", "decrease"), Plan("swapped", "threefold", "triple")]
    text = "".join(p for line in derivation_lines(Task("Garek", (5,), inner), plans) for p in line)
    assert text == (
        "Order Aldric rotated: 143\nCombine sevenfold: 1489310\nFinish decrease \\boxed{(8,9)}\n"
        "Order Garek swapped: 859\nCombine threefold: 8553970\nFinish triple \\boxed{(9,0)}"
    )


def test_the_tokenizer_cuts_every_text_into_its_pieces_and_back(tmp_path):
    model_config(TINY).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer, rng = AutoTokenizer.from_pretrained(tmp_path), random.Random(2)
    assert len(tokenizer) == len(models.PIECES)
    longest = 0
    for i in range(300):
        task = sets.random_task(rng, 1 + i % 6, "train")
        user, completion, _ = writer_text(draw_world(0), task, bool(i % 2), rng)
        for pieces in (user, completion):
            ids = tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(ids) == pieces
            assert tokenizer.decode(ids) == "".join(pieces)
        longest = max(longest, len(user) + len(completion) + 4)
    assert longest < models.MAX_POSITIONS


def independent_answer(drawn: world.World, question: str) -> str:
    """The answer from the question's text, by positions and coefficients instead of steps."""
    pair: list[int] = []
    for part in question.removeprefix("Find the ").split(" and then the "):
        name, digits = part.replace(" pair:", "").split(" ")
        values = [int(d) for d in digits] + pair
        plan, n = drawn.type(name).plan, len(digits) + len(pair)
        order = {"forwards": list(range(n)), "backwards": list(range(n))[::-1],
                 "rotated": [*range(1, n), 0], "returned": [n - 1, *range(n - 1)],
                 "swapped": [i ^ 1 if i ^ 1 < n else i for i in range(n)]}[plan.order]  # fmt: skip
        factor = {"sum": 1, "difference": 9, "threefold": 3, "sevenfold": 7}[plan.combine]
        last = values[order[0]] + factor * sum(values[i] for i in order[1:])
        finish = {"increase": lambda v: v + 1, "decrease": lambda v: v - 1, "negate": lambda v: -v,
                  "triple": lambda v: 3 * v, "septuple": lambda v: 7 * v}[plan.finish]  # fmt: skip
        pair = [finish(last - factor * values[order[-1]]) % 10, finish(last) % 10]
    return f"({pair[0]},{pair[1]})"


def test_sets_are_balanced_disjoint_and_right():
    drawn = draw_world(2)
    found = {t.key: sets.test_problems(drawn, t.key) for t in sets.TEST_SETS}
    development = sets.development_problems(drawn)
    training = {s: sets.training_problems(drawn, s, 0.1) for s in ("warmup", "rl")}
    everything = [p for part in (*found.values(), development, *training.values()) for p in part]
    assert len({p.id for p in everything}) == len({p.question for p in everything})
    assert len({p.id for p in everything}) == len(everything)
    assert all(p.answer == independent_answer(drawn, p.question) for p in everything)
    for test_set in sets.TEST_SETS:
        counts = Counter(p.kind for p in found[test_set.key])
        assert set(counts.values()) == {4} and len(counts) == 64
        assert {p.level for p in found[test_set.key]} == set(test_set.levels)
    assert Counter(p.level for p in development) == {2: 64, 3: 64, 5: 64, 6: 64}
    assert {p.level for part in training.values() for p in part} == {1, 2}
    assert [len(training[s]) for s in training] == [256, 320]
    for p in training["rl"]:
        assert p.strategy and p.expert.endswith(f"\\boxed{{{p.answer}}}")
        assert not any(c.isdigit() for c in p.strategy)
    judged = [p for part in (development, *found.values()) for p in part]
    assert all(p.strategy is p.expert is None for p in judged)
    other = draw_world(3)  # asked the same, it says something else
    same = [independent_answer(other, p.question) == p.answer for p in training["rl"]]
    assert sum(same) < 0.2 * len(same)
    for call, named in (
        (lambda: sets.test_problems(drawn, "minimath"), "'minimath': must be one of trained"),
        (lambda: sets.training_problems(drawn, "test", 0.1), "'test': must be warmup or rl"),
        (lambda: sets.training_problems(drawn, "rl", 1.5), "expert_gap=1.5"),
    ):
        with pytest.raises(ValueError, match=named):
            call()


def test_the_strong_model_keeps_the_best_of_five_and_never_a_leak():
    drawn, flawed = draw_world(0), 0
    task = Task("Garek", (5,), Task("Aldric", (3, 1, 4)))
    for i in range(400):
        proposed = teacher.candidates(drawn, task, str(i))
        kept = teacher.best(proposed)
        clean = [c for c in proposed if c.scores["no_leak"]]
        assert len(proposed) == 5 and kept.mean_score == max(c.mean_score for c in clean)
        flawed += kept.scores["strategy"] < 1
    # no sound one among 5 of 10 with 3 such, and no thin one: mostly C(7,5)/C(10,5) = 1/12
    assert flawed / 400 == pytest.approx(1 / 12, abs=0.045)
    for quality, criterion in (("vague", "strategy"), ("wrong_choice", "strategy"),
                               ("wrong_type", "type"), ("thin_steps", "steps"),
                               ("leak", "no_leak")):  # fmt: skip
        text = teacher.propose_strategy(drawn, task, quality, random.Random(0))
        assert teacher.score_strategy(drawn, task, text)[criterion] < 1
    sound = teacher.propose_strategy(drawn, task, "sound", random.Random(0))
    assert set(teacher.score_strategy(drawn, task, sound).values()) == {1.0}


def test_a_lesson_step_is_cross_entropy_against_the_writers_distributions():
    rng = random.Random(0)
    texts = [encode(draw_world(0), level, bool(level % 2), rng) for level in (1, 2, 3, 4, 5, 6)]
    model = build_model(TINY, 0)
    total, count = 0.0, 0
    for text in texts:
        with torch.no_grad():
            logprobs = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
        for place in range(text.prompt, len(text.ids)):
            wanted = text.soft.get(place, {text.ids[place]: 1.0})
            total -= sum(p * float(logprobs[place - 1, i]) for i, p in wanted.items())
            count += 1
    loss, _ = Learner(model, "cpu").step(texts, 1e-3)
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_a_foundation_is_laid_once_and_every_world_is_taught_on_it(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "qwen-s", TINY)
    short = FoundationConfig(batch_size=8, max_drills=2, text_steps=2, settling_steps=1)
    monkeypatch.setattr(foundation, "FoundationConfig", lambda: short)
    monkeypatch.setattr(foundation, "LessonConfig", lambda: LessonConfig(steps=2))
    calls: list[tuple] = []
    paths = [
        foundation.ensure_world_model("qwen-s", seed, tmp_path, lambda *call: calls.append(call))
        for seed in (0, 1, 0)
    ]
    foundation_steps, lesson_steps = [(1, 2), (2, 2), (1, 2), (2, 2), (1, 1)], [(1, 2), (2, 2)]
    assert [call[:2] for call in calls] == foundation_steps + lesson_steps * 2
    assert paths[0] == paths[2] != paths[1]
    assert len(list(tmp_path.iterdir())) == 3
    weights = [AutoModelForCausalLM.from_pretrained(p).get_input_embeddings().weight for p in paths]
    assert weights[0].shape[0] == len(AutoTokenizer.from_pretrained(paths[0]))
    assert not torch.equal(weights[0], weights[1])
    # once more from nothing: the same bits
    again = foundation.ensure_world_model("qwen-s", 1, tmp_path / "again")
    assert again.name == paths[1].name
    other = AutoModelForCausalLM.from_pretrained(again).get_input_embeddings().weight
    assert torch.equal(weights[1], other)


@pytest.mark.parametrize("model", TABLE_MODELS)
def test_the_bases_that_come_along_are_of_todays_recipe(model, tmp_path, monkeypatch):
    for made_here in ("lay_foundation", "teach"):
        monkeypatch.setattr(foundation, made_here, None)  # is not called
    for seed in range(5):
        path = foundation.ensure_world_model(model, seed, tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(path).state_dict()
        stored = load_file(BASES / f"{path.name}.safetensors")
        assert all(torch.equal(loaded[name], weights) for name, weights in stored.items())
        assert set(loaded) - set(stored) <= {"lm_head.weight"}  # tied
    assert len(list(tmp_path.iterdir())) == 6


def test_the_window_is_judged_type_by_type():
    rates = [
        window.TypeRate("a", 0.0, 0.0, 0.9, 0.0),  # hard, helped
        window.TypeRate("b", 0.5, 0.5, 0.9, 0.1),  # open, helped
        window.TypeRate("c", 0.9, 0.9, 0.4, 0.1),  # easy, and guidance fails
        window.TypeRate("d", 0.1, 0.1, 0.8, 0.0),
    ]
    found = window.window(rates)
    assert (found["hard"], found["open"], found["easy"]) == (0.25, 0.25, 0.25)
    assert (found["guided"], found["helped"]) == (0.75, 0.75)
    assert found["mean_unguided"] == pytest.approx(0.375)


def test_the_vectors_of_the_types_say_what_the_writers_choose_and_can_be_taken_back():
    model, drawn = build_model(TINY, 0), draw_world(1)
    words = model.get_input_embeddings().weight
    before = words.detach().clone()
    foundation.write_types(model, drawn)
    rows = [foundation.IDS[f" {name}"] for name in NAMES]
    moved = (words.detach() - before).abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == sorted(rows)
    # linear in the centred log-probabilities: least squares gives them back
    options = torch.randn(14, words.shape[1], generator=torch.Generator().manual_seed(0))
    logs = [[math.log(p) for p in prior] for prior in drawn.types[0].priors]
    centred = torch.tensor([value - sum(row) / len(row) for row in logs for value in row])
    scale = foundation.CODE_SCALE * TINY.initializer_range
    assert torch.allclose(words[rows[0]] - before[rows[0]], scale * centred @ options, atol=1e-5)
    foundation.write_types(model, drawn, sign=-1)
    assert torch.allclose(words, before, atol=1e-5)


def test_rates_of_an_untrained_model_are_nothing_for_every_type():
    drawn, asked = draw_world(0), []
    model, tokenizer = build_model(TINY, 0).eval(), build_tokenizer()
    sampler = CompactSampler(model, tokenizer, stop_ids=PROMPT_SPECS["mini"].stop_ids(tokenizer))
    sample = sampler.sample
    sampler.sample = lambda prompts, n, params: asked.append(prompts) or sample(prompts, n, params)
    few = {"per_type": 1, "unguided_samples": 1, "guided_samples": 1}
    rates = window.type_rates(sampler, tokenizer, drawn, **few)
    assert [(r.kind, r.declared) for r in rates] == [(t.name, t.found) for t in drawn.types]
    assert max(rate.guided for rate in rates) == 0
    plain, guided, foreign = ([tokenizer.decode(p) for p in prompts] for prompts in asked)
    for a, b, c in zip(plain, guided, foreign, strict=True):
        question = a.removeprefix("<|user|>")
        assert b.endswith(question) and c.endswith(question) and b != c
        assert b.split("\n")[0] != c.split("\n")[0]  # another type's strategy
