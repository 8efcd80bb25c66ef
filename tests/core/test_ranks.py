"""Training on two ranks: equal to one process, resumable, never stuck; and where it computes."""

import json
import os
import shutil
import signal

import pytest
import torch
from rank_processes import launch, sharded_trainer
from safetensors.torch import load_file
from tiny import (
    METHODS,
    RESUMED,
    SPEC,
    Killed,
    at_step,
    build_model,
    build_tokenizer,
    build_trainer,
    chunks_of,
    die,
    equal_weights,
    metrics,
    weights_of,
)
from transformers import AutoModelForCausalLM

from sgpo.core import distributed, sharding
from sgpo.core.distributed import RankLost, Ranks, check_share, places_of, select_device
from sgpo.core.sampling import CompactSampler, SamplingParams
from sgpo.core.sampling.ranks import SharedSampler
from sgpo.core.trainer import Stopped

PROMPTS = [(5, 6, 7), (8,), (9, 10), (11, 12, 13, 14), (15, 16)]
PARAMS = SamplingParams(max_tokens=8, top_p=0.95, seed=3)
# Name -> method and settings. Uneven: problems of a step that two ranks cannot share evenly.
CASES = {
    **{name: (name, {}) for name in RESUMED},
    "uneven": ("sgpo", {"problems_per_step": 5}),
    "updates": ("sgpo", {"updates_per_step": 2}),
    "buffer": ("relift", {"updates_per_step": 2}),
    "held-out": ("sft", {"held_out_share": 0.25}),
    "recompute": ("sgpo", {"activation_checkpointing": True}),
}
# Of what a resume state holds beside the weights: a buffer; a moving teacher and a count.
KILLED = ("relift", "hooked")


# A second step sees what the first has moved: the weights, a teacher, a buffer.
STEPS = dict.fromkeys((*KILLED, "grpo"), 3) | dict.fromkeys(
    ("sgpo", "sdpo", "opsd_initial", "uneven", "updates", "buffer", "held-out"), 2
)


def steps_of(case):
    return STEPS.get(case, 1)


def train_everything(own, directory):
    """On each rank: every case to its end; those of ``KILLED`` also killed at the step after a
    state and resumed; and what the tests below ask for. The head goes in chunks of a few tokens,
    and where the share is uneven so do the batches: the ranks run different numbers of passes."""

    def trainer_of(name, run_dir, **changes):
        changes = {"num_steps": steps_of(run_dir)} | changes
        if run_dir == "uneven":
            changes["micro_batch_tokens"] = 30
        return sharded_trainer(RESUMED[name](), directory / run_dir, own, **changes)

    def finish(trainer):
        trainer.run()
        sharding.export(trainer.model, trainer.run_dir / "model" if own.first else None)

    with chunks_of(9):
        for case, (name, changes) in CASES.items():
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
    assert codes == [0, 0], "".join((directory / f"rank-{i}.txt").read_text() for i in (0, 1))
    return directory


def weights(run_dir):
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model", dtype=torch.float32)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    return weights_of(model)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(case, two_ranks, tmp_path):
    name, changes = CASES[case]
    alone = build_trainer(RESUMED[name](), tmp_path, num_steps=steps_of(case), **changes)
    start = weights_of(alone.model)
    alone.run()
    ours, theirs = metrics(tmp_path), metrics(two_ranks / case)
    assert len(ours) == len(theirs) == steps_of(case)
    for one, two in zip(ours, theirs, strict=True):
        # The norm of a gradient is no loss: it grows with the number of weights.
        assert two == pytest.approx(one, abs=1e-5, rel=1e-4)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["sampled_tokens"] == one["sampled_tokens"]
    stored = load_file(two_ranks / case / "model" / "model.safetensors")
    assert ("lm_head.weight" in stored) != alone.model.config.tie_word_embeddings
    exported = weights(two_ranks / case)
    assert max(float((exported[n] - start[n]).abs().max()) for n in start) > 1e-3
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


def compact():
    model, tokenizer = build_model(), build_tokenizer()
    return CompactSampler(model, tokenizer, stop_ids=SPEC.stop_ids(tokenizer))


def go_on_and_evaluate(own, directory):
    sharded_trainer(METHODS["grpo"](), directory / "run", own, num_steps=3).run()
    shared, told = SharedSampler(compact(), own), []

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


def test_another_number_of_ranks_continues_the_run_and_draws_the_same(two_ranks, three_ranks):
    for one, two in zip(metrics(two_ranks / "grpo"), metrics(three_ranks / "run"), strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-4)
    found = json.loads((three_ranks / "samples.json").read_text())
    for groups, prompts, n in zip(found["ids"], (PROMPTS, PROMPTS[:1]), (3, 2), strict=True):
        expected = compact().sample(prompts, n, PARAMS)
        assert groups == [[list(c.token_ids) for c in group] for group in expected]
    assert found["told"] == len(PROMPTS) * 3


def test_a_state_in_shards_is_refused_by_a_whole_model(two_ranks, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    source = two_ranks / "grpo" / "checkpoints" / "step-000002"
    os.symlink(source, tmp_path / "checkpoints" / "step-000002")
    with pytest.raises(ValueError, match="was saved in shards and this run is not"):
        build_trainer(METHODS["grpo"](), tmp_path).run()


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
    codes = launch(lose_a_rank, tmp_path, how, wait=40, timeout=2, awaited=1)
    said = (tmp_path / "rank-0.txt").read_text()
    assert codes[0] == 1, said  # -999: it was still waiting
    assert "RankLost: rank 0 of 2 failed while" in said
    assert "another rank ended, or did not answer within 2 s" in said
    assert "run the same command again" in said


def fail_first(own, directory):
    with own.one_after_first():
        if own.first:
            raise ValueError("no such thing")


def test_what_fails_on_rank_0_stops_the_others_with_its_reason(tmp_path):
    assert launch(fail_first, tmp_path) == [1, 1]
    assert "ValueError: no such thing" in (tmp_path / "rank-0.txt").read_text()
    other = (tmp_path / "rank-1.txt").read_text()
    assert "rank 1 stops because rank 0 failed: ValueError: no such thing" in other


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
    with pytest.raises(RuntimeError, match="no collective"), Ranks().watched("x"):
        raise RuntimeError("no collective")
    with pytest.raises(RankLost, match="rank 0 of 1 failed while x"), Ranks().watched("x"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    model = build_model()
    before = weights_of(model)
    sharding.gather(model)
    sharding.reduce_gradients(model)
    assert not sharding.is_sharded(model) and equal_weights(weights_of(model), before)
    needed = [sharding.needs_sharding(*of) for of in ((Ranks(), "float32"), (Ranks(), "bfloat16"))]
    assert needed == [False, True] and sharding.needs_sharding(Ranks(0, 2), "float32")


@pytest.mark.parametrize(
    ("gpus", "rank", "name", "expected"),
    [
        (0, "0", "auto", torch.device("cpu")),
        (0, "0", "cuda", "device='cuda': torch sees no GPU here; use --set device"),
        (2, "1", "cuda", torch.device("cuda", 1)),
        (2, "2", "auto", "local rank 2: only 2 GPUs are visible"),
    ],
)
def test_every_local_rank_gets_its_device(monkeypatch, gpus, rank, name, expected):
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(distributed.torch.cuda, "set_device", lambda index: None)
    if isinstance(expected, torch.device):
        assert select_device(name) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            select_device(name)
