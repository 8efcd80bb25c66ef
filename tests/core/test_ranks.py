"""Training on two ranks: equal to one process, resumable, and never stuck."""

import json
import os
import shutil
import signal

import pytest
import torch
from rank_processes import launch, sharded_trainer
from tiny import (
    METHODS,
    RESUMED,
    SPEC,
    Killed,
    at_step,
    build_model,
    build_tokenizer,
    build_trainer,
    die,
    equal_weights,
    metrics,
    weights_of,
)
from transformers import AutoModelForCausalLM

from sgpo.core import sharding
from sgpo.core.distributed import RankLost, Ranks, check_share, places_of
from sgpo.core.sampling import CompactSampler, SamplingParams
from sgpo.core.sampling.ranks import SharedSampler
from sgpo.core.trainer import Stopped

PROMPTS = [(5, 6, 7), (8,), (9, 10), (11, 12, 13, 14), (15, 16)]
PARAMS = SamplingParams(max_tokens=8, top_p=0.95, seed=3)
# Problems of a step that two ranks cannot share evenly, and batches so small that the ranks run
# different numbers of passes.
UNEVEN = {"problems_per_step": 5, "micro_batch_tokens": 30}
VARIANTS = {
    "uneven": ("sgpo", UNEVEN),
    "uneven-hpt": ("hpt", UNEVEN),
    "updates": ("sgpo", {"updates_per_step": 2}),
    "buffer": ("relift", {"updates_per_step": 2}),
    "held-out": ("sft", {"held_out_share": 0.25}),
    "recompute": ("sgpo", {"activation_checkpointing": True}),
}
ALL = {**{name: (name, {}) for name in RESUMED}, **VARIANTS}
# One of each thing that a resume state holds: weights alone, a buffer, a ledger, a frozen teacher,
# a moving one with a count.
KILLED = ("grpo", "relift", "sgpo", "opsd_initial", "hooked")


def steps_of(case):
    return 3 if case in KILLED else 2  # the second sees what the first has moved


def train_everything(own, directory):
    """On each rank: every case to its end; those of ``KILLED`` also killed at the step after a
    state and resumed; and what the tests below ask for."""

    def trainer_of(name, run_dir, **changes):
        changes = {"num_steps": steps_of(run_dir)} | changes
        return sharded_trainer(RESUMED[name](), directory / run_dir, own, **changes)

    def finish(trainer):
        trainer.run()
        sharding.export(trainer.model, trainer.run_dir / "model" if own.first else None)

    for case, (name, changes) in ALL.items():
        finish(trainer_of(name, case, **changes))
    for name in KILLED:
        with pytest.raises(Killed):
            at_step(3, trainer_of(name, f"{name}-resumed", num_steps=3), die).run()
        finish(trainer_of(name, f"{name}-resumed", num_steps=3))
    half = trainer_of("sgpo", "bfloat16", num_steps=1, precision="bfloat16")
    half.run()
    masters = {p.dtype for p in half.model.parameters()}
    assert masters == {torch.float32}, masters
    skip_then_resume(own, directory / "skipped")
    own.gather(None)


def skip_then_resume(own, directory):
    """Two runs of one directory: every update of the first step is skipped, then training goes on
    from its resume state, which holds no moments."""
    changes = {"checkpoint_every": 1, "nonfinite_patience": 9}
    first = sharded_trainer(METHODS["grpo"](), directory, own, skip_above=1e-9, **changes)
    first.stop = lambda: True
    with pytest.raises(Stopped):
        first.run()
    assert not first.optimizer.state
    second = sharded_trainer(METHODS["grpo"](), directory, own, **changes)
    second.run()
    assert len(second.optimizer.state) == len(list(second.model.parameters()))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ranks")
    codes = launch(train_everything, directory)
    said = "".join((directory / f"rank-{i}.txt").read_text() for i in (0, 1))
    assert codes == [0, 0], said
    return directory


def weights(run_dir):
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model", dtype=torch.float32)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    return weights_of(model)


@pytest.mark.parametrize("case", ALL)
def test_two_ranks_equal_one_process(case, two_ranks, tmp_path):
    name, changes = ALL[case]
    alone = build_trainer(RESUMED[name](), tmp_path, num_steps=steps_of(case), **changes)
    alone.run()
    ours, theirs = metrics(tmp_path), metrics(two_ranks / case)
    assert len(ours) == len(theirs) == steps_of(case)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            # The norm of a gradient is no loss: it grows with the number of weights.
            assert two[key] == pytest.approx(one[key], abs=1e-5, rel=1e-4), key
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["sampled_tokens"] == one["sampled_tokens"]
    start, exported = weights_of(build_model()), weights(two_ranks / case)
    moved = max(float((exported[n] - start[n]).abs().max()) for n in start)
    assert moved > 1e-3
    for parameter, value in weights_of(alone.model).items():
        # AdamW's first moves follow the sign of a gradient, also where it is rounding: such a
        # weight may be off by a few rates of 0.01, the rest must agree.
        off = (exported[parameter] - value).abs() > 1e-4
        assert off.float().mean() < 0.02, parameter


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_ranks_equal_uninterrupted_ones(name, two_ranks):
    assert metrics(two_ranks / f"{name}-resumed") == metrics(two_ranks / name)
    assert equal_weights(weights(two_ranks / f"{name}-resumed"), weights(two_ranks / name))


def test_half_precision_computes_differently_but_alike(two_ranks):
    full, half = metrics(two_ranks / "sgpo")[0], metrics(two_ranks / "bfloat16")[0]
    assert half["reward"] == full["reward"]  # the first samples come from equal weights
    assert half["kl_mean"] != full["kl_mean"]
    assert half["kl_mean"] == pytest.approx(full["kl_mean"], rel=0.1)
    assert half["entropy"] == pytest.approx(full["entropy"], rel=0.05)


@pytest.fixture(scope="module")
def three_ranks(two_ranks, tmp_path_factory):
    """Three ranks go on from the state after step 2 of two, then share an evaluation."""
    directory, source = tmp_path_factory.mktemp("three"), two_ranks / "grpo"
    run_dir = directory / "run"
    shutil.copytree(source / "checkpoints" / "step-000002", run_dir / "checkpoints" / "step-000002")
    lines = (source / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:2]))
    codes = launch(go_on_and_evaluate, directory, size=3)
    assert codes == [0] * 3, (directory / "rank-0.txt").read_text()
    return directory


def go_on_and_evaluate(own, directory):
    sharded_trainer(METHODS["grpo"](), directory / "run", own, num_steps=3).run()
    model, tokenizer = build_model(), build_tokenizer()
    sampler = CompactSampler(model, tokenizer, stop_ids=SPEC.stop_ids(tokenizer))
    shared, told = SharedSampler(sampler, own), []

    def work():
        return [
            shared.sample(PROMPTS, 3, PARAMS, told.append),
            shared.sample(PROMPTS[:1], 2, PARAMS),
        ]

    results = shared.lead(work)
    if results is None:
        return
    ids = [[[list(c.token_ids) for c in group] for group in groups] for groups in results]
    (directory / "samples.json").write_text(json.dumps({"ids": ids, "told": sum(told)}))


def test_a_state_of_two_ranks_continues_on_another_number(two_ranks, three_ranks):
    for one, two in zip(metrics(two_ranks / "grpo"), metrics(three_ranks / "run"), strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-4)


def test_samplers_of_all_ranks_draw_what_one_draws(three_ranks):
    model, tokenizer = build_model(), build_tokenizer()
    alone = CompactSampler(model, tokenizer, stop_ids=SPEC.stop_ids(tokenizer))
    found = json.loads((three_ranks / "samples.json").read_text())
    for groups, prompts, n in zip(found["ids"], (PROMPTS, PROMPTS[:1]), (3, 2), strict=True):
        expected = alone.sample(prompts, n, PARAMS)
        assert groups == [[list(c.token_ids) for c in group] for group in expected]
    assert found["told"] == len(PROMPTS) * 3
    assert len({tuple(ids) for group in found["ids"][0] for ids in group}) > 5


def test_a_state_in_shards_is_refused_by_a_whole_model(two_ranks, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    source = two_ranks / "sgpo" / "checkpoints" / "step-000002"
    os.symlink(source, tmp_path / "checkpoints" / "step-000002")
    with pytest.raises(ValueError, match="was saved in shards and this run is not"):
        build_trainer(METHODS["sgpo"](), tmp_path).run()


def test_a_state_before_the_first_move_continues(two_ranks):
    assert [r["skipped_share"] for r in metrics(two_ranks / "skipped")] == [1.0, 0.0, 0.0]


def lose_a_rank(own, directory, how):
    """Rank 1 is killed, or stops answering, in the middle of step 2."""
    trainer = sharded_trainer(METHODS["grpo"](), directory, own)
    if own.rank == 1:
        at_step(2, trainer, lambda: os.kill(os.getpid(), how))
    trainer.run()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_others_in_time_and_clearly(how, tmp_path):
    codes = launch(lose_a_rank, tmp_path, how, wait=40, timeout=5, awaited=1)
    said = (tmp_path / "rank-0.txt").read_text()
    assert codes[0] == 1, said  # -999: it was still waiting
    assert "RankLost: rank 0 of 2 failed while" in said
    assert "another rank ended, or did not answer within 5 s" in said
    assert "run the same command again" in said


def test_problems_are_shared_among_ranks():
    for count in range(9):
        for size in (1, 2, 3, 4):
            shares = [list(Ranks(r, size).share(count)) for r in range(size)]
            assert [i for share in shares for i in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    first, second = (places_of(Ranks(r, 2), 12, 3) for r in (0, 1))  # in each of three updates
    assert first == [0, 1, 4, 5, 8, 9] and second == [2, 3, 6, 7, 10, 11]
    with pytest.raises(ValueError, match="fewer than one problem for each of 8 ranks"):
        check_share(Ranks(0, 8), 12, 2)


def test_one_process_passes_everything_through():
    ranks = Ranks()
    assert ranks.add({"a": 1.5}) == {"a": 1.5} and ranks.gather(3) == [3]
    with pytest.raises(RuntimeError, match="no collective"), ranks.watched("x"):
        raise RuntimeError("no collective")
    with pytest.raises(RankLost, match="rank 0 of 1 failed while saving"), ranks.watched("saving"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")


def test_a_plain_model_is_left_alone():
    model = build_model()
    before = weights_of(model)
    sharding.gather(model)
    sharding.reduce_gradients(model)
    assert not sharding.is_sharded(model) and equal_weights(weights_of(model), before)
    assert dict(sharding.full_state(model)).keys() == model.state_dict().keys()
    needed = [sharding.needs_sharding(*of) for of in ((Ranks(), "float32"), (Ranks(), "bfloat16"))]
    assert needed == [False, True] and sharding.needs_sharding(Ranks(0, 2), "float32")


def fail_first(own, directory):
    with own.one_after_first():
        if own.first:
            raise ValueError("no such thing")


def test_what_fails_on_rank_0_stops_the_others_with_its_reason(tmp_path):
    assert launch(fail_first, tmp_path) == [1, 1]
    assert "ValueError: no such thing" in (tmp_path / "rank-0.txt").read_text()
    other = (tmp_path / "rank-1.txt").read_text()
    assert "rank 1 stops because rank 0 failed: ValueError: no such thing" in other
