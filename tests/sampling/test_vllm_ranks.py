"""Sharded training with an engine in every rank equals one process with one engine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from engines import NO_VLLM, STOP, TOKENIZER, build
from rank_processes import CPU, launch
from tiny import build_problems, build_rollout, build_trainer

from baselines.grpo import GRPO, GRPOConfig
from sgpo.core import sharding
from sgpo.core.distributed import Ranks
from sgpo.core.sampling.vllm import VLLMSampler
from sgpo.core.trainer import Trainer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)
METHOD = GRPO(GRPOConfig(num_samples=6))


def train(run_dir: Path, own=None) -> None:
    """Two steps; on ranks the model is sharded after the engine has started, as in a run."""
    model = build()
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP)
    if own is not None:
        sharding.shard(model, CPU, "float32")
    template = build_trainer(METHOD, run_dir, model=build(), num_steps=2)
    rollout = build_rollout(build(), grade=template.rollout.grader)
    rollout.model, rollout.sampler = model, sampler
    Trainer(
        model=model,
        method=METHOD,
        rollout=rollout,
        problems=build_problems(),
        config=template.config,
        seed=7,
        run_dir=run_dir,
        ranks=own or Ranks(),
    ).run()


def on_a_rank(own, directory):
    train(Path(directory) / "ranks", own)


def test_ranks_with_engines_repeat_the_single_process(tmp_path):
    codes = launch(on_a_rank, str(tmp_path))
    logs = [(tmp_path / f"rank-{rank}.txt").read_text()[-2000:] for rank in (0, 1)]
    assert codes == [0, 0], "\n".join(logs)
    train(tmp_path / "single")
    single, ranks = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("single", "ranks")
    )
    assert len(single) == len(ranks) == 2
    for one, both in zip(single, ranks, strict=True):
        assert one.keys() == both.keys() and "mismatch_mean" in one
        for name in ("reward", "loss", "grad_norm", "response_length", "sampled_tokens"):
            assert both[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
        assert both["mismatch_max"] < 1e-4
