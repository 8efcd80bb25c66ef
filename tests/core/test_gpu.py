"""The same samples, scores and updates on a GPU as on the CPU; skipped where there is none."""

import copy

import pytest
import torch
from engines import LONG, PROMPTS, STOP, TOKENIZER, build, ids_of
from tiny import METHODS, build_model, build_trainer, weights_of

from sgpo.core import sharding
from sgpo.core.models import cast
from sgpo.core.sampling import CompactSampler, SamplingParams
from sgpo.core.sampling.ranks import ReplicaSampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("prompts", [PROMPTS, LONG + PROMPTS])
def test_replayed_graphs_draw_what_the_cpu_draws(family, prompts):
    """Of 16 rows a prompt, that end at different steps: through every size of the batch."""
    model, params = build(family=family), SamplingParams(max_tokens=60, top_p=0.95, seed=3)
    on_cpu = CompactSampler(model, TOKENIZER, stop_ids=STOP).sample(prompts, 16, params)
    assert {c.finish_reason.value for group in on_cpu for c in group} == {"stop", "length"}
    sampler = CompactSampler(copy.deepcopy(model).to(GPU), TOKENIZER, stop_ids=STOP)
    assert ids_of(sampler.sample(prompts, 16, params)) == ids_of(on_cpu)


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_move_the_weights_as_on_the_cpu(tmp_path, name):
    moved = []
    for device in ("cpu", GPU):
        model = build_model().to(device)
        before = weights_of(model)
        # Plain gradient descent in effect: Adam's first step has the size of the rate whatever the
        # gradient is, and would turn rounding of a zero into a whole step.
        trainer = build_trainer(METHODS[name](), tmp_path / str(device), model=model, num_steps=2)
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1.0
        trainer.run()
        moved.append({k: (v - before[k]).cpu() for k, v in weights_of(model).items()})
    scale = max(float(v.abs().max()) for v in moved[0].values())
    assert max(float((moved[0][k] - moved[1][k]).abs().max()) for k in moved[0]) < 1e-3 * scale


def test_bfloat16_shards_train_and_the_replica_follows(tmp_path):
    model = build_model()
    replica = cast(copy.deepcopy(model), GPU, torch.bfloat16)
    first = weights_of(replica)
    sharding.shard(model, GPU, "bfloat16")
    trainer = build_trainer(METHODS["sgpo"](), tmp_path, model=model, num_steps=2)
    inner = CompactSampler(replica, trainer.rollout.tokenizer, stop_ids=STOP)
    trainer.rollout.sampler = ReplicaSampler(replica, inner)
    trainer.run()
    state = dict(sharding.full_state(model))
    assert not torch.equal(first["model.norm.weight"], replica.model.norm.weight)
    for key, tensor in replica.state_dict().items():
        assert torch.equal(tensor, state[key].to(torch.bfloat16)), key
