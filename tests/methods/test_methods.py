"""What methods promise beyond their formulas: identities, what they collect, what they refuse."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import (
    MAX_TOKENS,
    METHODS,
    RESUMED,
    SPEC,
    STRATEGY_WORDS,
    VOCABULARY,
    build_model,
    build_problems,
    build_rollout,
    build_trainer,
    collected,
    equal_weights,
    grader,
    gradient,
    method_of,
    weights_of,
)

import baselines
from baselines.hpt import HPTConfig
from baselines.luffy import LUFFYConfig
from baselines.opd import OPD
from benchmarks.config import load_method_file
from sgpo.core import scoring
from sgpo.core.method import call_optional, shown_in_prompts
from sgpo.core.types import Role, Sums


def graded(right):
    """A grader that judges sample i of a call by ``right(i, gold)``; traces are always right."""

    def grade(pairs, *, truncated=None):
        verdicts = grader(pairs, truncated=truncated)
        if truncated is None:
            return verdicts
        return [
            replace(v, correct=bool(right(i, gold)))
            for i, (v, (gold, _)) in enumerate(zip(verdicts, pairs, strict=True))
        ]

    return grade


ALL_WRONG = graded(lambda i, gold: False)
HALF_RIGHT = graded(lambda i, gold: i % 2 == 0)
SOME_GROUPS_RIGHT = graded(lambda i, gold: int(gold[1:]) % 2 == 0 or i % 2 == 0)

# --- identities ---------------------------------------------------------------------------------

SAME = {  # name -> settings, grader
    "sgpo": ({"num_autonomous": 12, "num_guided": 0, "alpha_mode": "zero"}, grader),
    "chord": ({"num_samples": 12, "mu_peak": 0.0, "mu_valley": 0.0}, grader),
    "relift": ({"num_samples": 12, "buffer_size": 1}, HALF_RIGHT),  # its buffer stays empty
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_grpo_in_the_limit_is_grpo(name, tmp_path):
    """SGPO and ReLIFT to the bit; CHORD's terms, one of them 0, are added in another order."""
    settings, grade = SAME[name]
    finals, losses = [], []
    for method in (method_of(name, **settings), method_of("grpo", num_samples=12)):
        trainer = build_trainer(method, tmp_path / str(len(finals)), grade=grade)
        start = weights_of(trainer.model)
        records = [trainer.step(step) for step in (1, 2)]
        losses.append([(r["loss"], r["entropy"], r["grad_norm"], r["reward"]) for r in records])
        finals.append(weights_of(trainer.model))
        assert not equal_weights(start, finals[-1])
    assert any(0 < reward < 1 for *_, reward in losses[0])
    if name == "chord":
        for ours, theirs in zip(*(weights.values() for weights in finals), strict=True):
            assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.02
        assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5, abs=1e-7)
    else:
        assert losses[0] == losses[1] and equal_weights(*finals)


@pytest.mark.parametrize("method", [METHODS["opsd"](), METHODS["sdpo"]()])
def test_self_distillation_rests_where_the_teacher_sees_what_the_student_sees(method):
    trajectories, model = collected(method)
    blind = [t.with_(second_prompt_ids=t.prompt_ids) for t in trajectories]
    loss, grad = gradient(method, model, [blind], method.totals(blind))
    assert loss == pytest.approx(0.0, abs=1e-7) and grad.abs().max() < 1e-6


def moved(trajectories):
    """``trajectories`` with old log-probabilities that differ from the current ones."""
    noise = torch.Generator().manual_seed(3)
    return [
        t.with_(old_logprobs=-3.0 + torch.randn(len(t.completion_ids), generator=noise))
        if t.role is Role.AUTONOMOUS
        else t
        for t in trajectories
    ]


SPLIT = RESUMED | {"sgpo_all": lambda: method_of("sgpo", num_guided=4, select_target=False)}


@pytest.mark.parametrize("name", SPLIT)
def test_split_order_and_padding_change_nothing(name):
    method = SPLIT[name]()
    trajectories, model = collected(method, problems=build_problems(4))
    trajectories = moved(call_optional(method, "separate", trajectories, default=[trajectories])[0])
    totals, whole, parts = method.totals(trajectories), Sums(), Sums()
    loss, grad = gradient(method, model, [trajectories], totals, whole)
    order = torch.randperm(len(trajectories), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = [trajectories[i] for i in order]
    by_length = sorted(trajectories, key=lambda t: len(t.prompt_ids) + len(t.completion_ids))
    half = len(by_length) // 2
    assert totals == method.totals(shuffled)
    splits = {
        "one by one": [[t] for t in trajectories],
        "shuffled thirds": [shuffled[i::3] for i in range(3)],
        "long with short": [by_length[i::half] for i in range(half)],
    }
    for what, batches in splits.items():
        assert sum(map(len, batches)) == len(trajectories), what
        summed = parts if what == "one by one" else None
        other_loss, other = gradient(method, model, batches, totals, summed)
        assert other_loss == pytest.approx(loss, abs=2e-6), what
        torch.testing.assert_close(other, grad, rtol=1e-4, atol=2e-6, msg=what)
    assert grad.abs().max() > 1e-4
    assert parts.keys() == whole.keys()
    for key, pair in whole.items():
        assert parts[key] == pytest.approx(pair, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", ["grpo", "sgpo"])
def test_rows_without_advantage_are_left_out_of_the_graph(name, monkeypatch):
    """Their loss and gradient are by the formula all the same (test_formulas)."""
    method = METHODS[name]()
    trajectories, model = collected(method, problems=build_problems(6), grade=SOME_GROUPS_RIGHT)
    own = [t for t in trajectories if t.role is Role.AUTONOMOUS]
    moving = [t for t in own if t.advantage]
    with_graph, stats = [], scoring.token_stats

    def counted(model, batch, **options):
        result = stats(model, batch, **options)
        if result.logprobs.requires_grad:
            with_graph.append(len(result.logprobs))
        return result

    monkeypatch.setattr(scoring, "token_stats", counted)
    method.loss(model, trajectories, method.totals(trajectories))
    assert with_graph == [len(moving)] and 0 < len(moving) < len(own)


# --- what is collected --------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_strategy_never_stands_in_the_prompt_that_is_trained(name):
    strategy_ids = {VOCABULARY.index(word) for word in STRATEGY_WORDS}
    method = METHODS[name]()
    trajectories, _ = collected(method)
    shows = getattr(method, "shows", ())
    for t in trajectories:
        assert not strategy_ids & set(t.prompt_ids)
        if t.role is Role.GUIDED:
            assert strategy_ids & set(t.second_prompt_ids)
            assert t.prompt_ids[-3:] == t.second_prompt_ids[-3:]  # only the prefix differs
        else:  # a second prompt is a self-distillation teacher's
            assert (t.second_prompt_ids is not None) == (shows in [("solution",), ("sample",)])
    assert any(t.role is Role.GUIDED for t in trajectories) == (shows == ("strategy",))


def test_hpt_gate_on_both_sides():
    method = METHODS["hpt"]()
    problems = build_problems(12)
    trajectories, model = collected(method, problems=problems)
    counts = set()
    for problem, group in zip(problems, drawn_again(model, problems, 6), strict=True):
        mine = [t for t in trajectories if t.problem_id == problem.id]
        count = int(sum(t.reward for t in group))
        counts.add(count)
        if count <= 2:
            assert [t.role for t in mine] == [Role.DEMO]
        else:
            assert [t.completion_ids for t in mine] == [t.completion_ids for t in group]
    assert {2, 3} <= counts, "both sides of the gate's edge must occur"


def drawn_again(model, problems, n, **how):
    rollout = build_rollout(model)
    rollout.begin_step(1)
    return rollout.groups(problems, n, **how)


def test_sdpo_shows_another_right_sample_and_leaves_out_who_has_none():
    problems = build_problems(6)
    trajectories, model = collected(METHODS["sdpo"](), problems=problems)
    tokenizer = build_rollout(model).tokenizer
    for problem, group in zip(problems, drawn_again(model, problems, 6), strict=True):
        expected = {}
        for t in group:
            others = [r for r in group if r.reward == 1.0 and r is not t]
            texts = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in others]
            for text in [text for text in texts if text][:1]:
                shown = replace(problem, expert=text)
                expected[t.completion_ids] = SPEC.prompt_ids(tokenizer, shown, solved=True)
        taught = [t for t in trajectories if t.problem_id == problem.id]
        assert {t.completion_ids: t.second_prompt_ids for t in taught} == expected


def test_dapo_draws_other_problems_within_the_budget(tmp_path):
    """12 samples a problem: 4 problems pay for 6 groups of 8. One problem of the step that nobody
    solves is made up for by another; where nothing is solved the budget ends the search."""
    trainer = build_trainer(method_of("dapo"), tmp_path)
    unsolved = trainer.step_problems(1)[0].answer
    trainer.rollout.grader = graded(lambda i, gold: i % 2 == 0 and gold != unsolved)
    record = trainer.step(1)
    assert (record["extra_problems"], record["num_samples"]) == (1, 40)
    hopeless = build_trainer(method_of("dapo"), tmp_path / "none", grade=ALL_WRONG)
    record = hopeless.step(1)
    assert (record["extra_problems"], record["num_samples"]) == (2, 48)


def buffered(method):
    return [entry[0] for entry in method.buffer]


def test_relift_buffers_what_it_cannot_solve_and_learns_the_newest_traces(tmp_path):
    method = method_of("relift", num_samples=4, buffer_size=3, entropy_coefficient=0.1)
    trainer = build_trainer(method, tmp_path, grade=ALL_WRONG, problems=build_problems(12))
    first = trainer.step(1)
    seen = [p.id for p in trainer.step_problems(1)]
    assert first["replayed_traces"] == 3 and buffered(method) == seen[3:]
    trainer.step(2)  # 1 + 4 traces: the newest 3 are learned
    newest = [p.id for p in trainer.step_problems(2)]
    assert buffered(method) == [newest[3], seen[3]]


def test_sample_budget_is_the_papers_for_every_method():
    """12 per problem; LUFFY, SRFT and CHORD add the expert's trace, DAPO may draw for more."""
    problems = build_problems(3)
    drawn = {}
    for name, make in METHODS.items():
        kind = type(make())
        config = type(make().config)
        sized = {"max_tokens": MAX_TOKENS} if config in (HPTConfig, LUFFYConfig) else {}
        rollout = build_rollout(build_model())
        rollout.begin_step(1)
        method = kind(config(**sized))
        if hasattr(method, "begin"):
            method.begin(rollout.model, 3, rollout.config, rollout.tokenizer)
        method.collect(problems, rollout)
        drawn[name] = rollout.spent.num_samples / len(problems)
    other = {"sft": 0, "luffy": 11, "srft": 11, "chord": 11, "dapo": 8}
    assert drawn == {name: other.get(name, 12) for name in METHODS}


def test_alpha_is_logged_over_all_problems_and_over_those_with_a_target():
    method, sums = METHODS["sgpo"](), Sums()
    trajectories, model = collected(method, problems=build_problems(6))
    gradient(method, model, [[t] for t in trajectories], method.totals(trajectories), sums)
    alphas = [t.weight for t in trajectories if t.role is Role.GUIDED]  # one target a problem
    assert 0 < len(alphas) < 6 and sum(alphas) > 0
    found = sums.means()
    assert found["alpha_mean"] == pytest.approx(sum(alphas) / 6)
    assert found["alpha_of_targets"] == pytest.approx(sum(alphas) / len(alphas))


# --- what is refused ----------------------------------------------------------------------------


def test_what_a_method_may_show_is_one_of_three_things():
    assert shown_in_prompts(METHODS["grpo"]()) == ()
    other = type("Other", (), {"shows": ("hint",)})()
    with pytest.raises(ValueError, match="Other.shows: holds 'hint'; it is a tuple of strategy,"):
        shown_in_prompts(other)


def test_opd_names_its_missing_teacher():
    with pytest.raises(ValueError, match="settings.teacher: names no checkpoint"):
        method_of("opd")


@pytest.mark.parametrize("name", ["sft", "luffy", "hpt", "opsd", "srft", "chord", "sgpo"])
def test_missing_traces_and_strategies_are_named(name):
    problems = [
        replace(p, expert=None, strategy=None) if p.id == "p2" else p for p in build_problems(4)
    ]
    what = "strategy" if name == "sgpo" else "expert trace"
    with pytest.raises(ValueError, match=f"problem 'p2' has no {what}"):
        collected(METHODS[name](), problems=problems)


def test_the_documented_file_makes_a_distillation_of_ones_own(tmp_path):
    readme = Path(baselines.__file__).with_name("README.md").read_text()
    file = tmp_path / "opd_qwen_l.py"
    file.write_text(re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1))
    module = load_method_file(file)
    method = module.METHOD(module.CONFIG())
    assert isinstance(method, OPD) and method.teacher.checkpoint.endswith("RUN_ID/model")


def test_opsd_samples_without_the_solution():
    """Its samples are those that SFT+GRPO would draw."""
    problems = build_problems(4)
    trajectories, model = collected(method_of("opsd", num_samples=4), problems=problems)
    plain = [t for group in drawn_again(model, problems, 4) for t in group]
    solved = {p.id: SPEC.prompt_ids(build_rollout(model).tokenizer, p, solved=True)
              for p in problems}  # fmt: skip
    assert trajectories == [t.with_(second_prompt_ids=solved[t.problem_id]) for t in plain]
