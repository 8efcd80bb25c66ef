"""The engine's log-probabilities beside the trainer's: by hand, and where they are logged."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import build_model, build_problems, build_rollout, build_trainer, dense_logprobs

from baselines.grpo import GRPO, GRPOConfig
from sgpo.core.rollout import MEASURED, PER_FORWARD, mismatch, sampler_mismatch
from sgpo.core.sampling import CompactSampler, SamplingParams
from sgpo.core.scoring import own_logprobs

SHIFT = 0.1


def test_mismatch_by_hand():
    """d = -0.2, 0, 0.1, 0.3: ratios 0.819, 1, 1.105, 1.350, of which one leaves [0.8, 1.2]."""
    engine = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    found = mismatch(engine, engine + torch.tensor([-0.2, 0.0, 0.1, 0.3]))
    assert found["mismatch_mean"] == pytest.approx(0.15, abs=1e-6)
    assert found["mismatch_max"] == pytest.approx(0.3, abs=1e-6)
    assert found["mismatch_p95"] == pytest.approx(0.2 + 0.85 * 0.1, abs=1e-6)
    assert found["mismatch_outside"] == 0.25
    k3 = [math.exp(d) - 1 - d for d in (-0.2, 0.0, 0.1, 0.3)]
    assert found["mismatch_k3"] == pytest.approx(sum(k3) / 4, abs=1e-6)
    assert set(mismatch(engine, engine).values()) == {0.0}


def test_k3_estimates_the_divergence_of_sampler_and_trainer():
    p, q = torch.softmax(torch.tensor([1.0, 0.0, -1.0]), 0), torch.tensor([0.5, 0.3, 0.2])
    draws = torch.multinomial(p, 200_000, True, generator=torch.Generator().manual_seed(0))
    found = mismatch(p.log()[draws], q.log()[draws])["mismatch_k3"]
    assert found == pytest.approx(float((p * (p / q).log()).sum()), abs=2e-3)


class ShiftedSampler(CompactSampler):
    """Reports log-probabilities that are ``SHIFT`` too low, under the prompt it was given."""

    def sample(self, prompts, n, params, progress=None):
        groups = super().sample(prompts, n, params, progress)
        assert params.logprobs
        return [
            [
                replace(
                    c,
                    sampler_logprobs=tuple(
                        (dense_logprobs(self.model, p, c.token_ids).detach() - SHIFT).tolist()
                    ),
                )
                for c in group
            ]
            for p, group in zip(map(tuple, prompts), groups, strict=True)
        ]


@pytest.mark.parametrize("guided", [False, True])
def test_the_rollout_measures_under_the_prompt_that_was_sampled(guided):
    rollout = build_rollout(build_model(), 7)
    assert not any("mismatch" in name for name in rollout.stats)
    rollout.groups(build_problems(4), 3, guided=guided)
    assert not any("mismatch" in name for name in rollout.stats)  # shared weights: nothing to say
    rollout.sampler = ShiftedSampler(rollout.model, rollout.tokenizer, stop_ids=[4])
    rollout.groups(build_problems(4), 3, guided=guided)
    prefix = "guided_" if guided else ""
    assert rollout.stats[f"{prefix}mismatch_mean"] == pytest.approx(SHIFT, abs=1e-5)
    assert rollout.stats[f"{prefix}mismatch_max"] == pytest.approx(SHIFT, abs=1e-4)


def test_a_fixed_number_is_scored(monkeypatch):
    model = build_model()
    sampler = ShiftedSampler(model, build_rollout(model, 7).tokenizer, stop_ids=[4])
    params = SamplingParams(max_tokens=6, seed=1, logprobs=True)
    prompts = [(2, 5, 3), (2, 6, 7, 3)]
    groups = sampler.sample(prompts, 30, params)
    pairs = [(p, c) for p, group in zip(prompts, groups, strict=True) for c in group]
    scored = []

    def counted(model, rows, budget):
        scored.append(len(rows))
        return own_logprobs(model, rows, budget)

    monkeypatch.setattr("sgpo.core.rollout.own_logprobs", counted)
    assert sampler_mismatch(model, pairs)["mismatch_mean"] == pytest.approx(SHIFT, abs=1e-5)
    # As many forward passes on every rank, whatever the lengths there.
    assert scored == [PER_FORWARD] * (MEASURED // PER_FORWARD)


def test_training_logs_it_and_tells_the_sampler_when_sampling_is_over(tmp_path):
    order = []

    class Recorded(ShiftedSampler):
        def sample(self, *arguments):
            order.append("sample")
            return super().sample(*arguments)

        def release(self):
            order.append("release")

        def sync(self, model):
            order.append("sync")

    trainer = build_trainer(GRPO(GRPOConfig(num_samples=4)), tmp_path, num_steps=2)
    trainer.rollout.sampler = Recorded(trainer.model, trainer.rollout.tokenizer, stop_ids=[4])
    trainer.run()
    assert order == ["sync"] + ["sample", "release", "sync"] * 2
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [r["mismatch_p95"] for r in records] == pytest.approx([SHIFT] * 2, abs=1e-4)
