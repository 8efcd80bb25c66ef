"""The same samples, scores and updates on a GPU as on the CPU; skipped where there is none."""

import copy

import pytest
import torch
from engines import LONG, PROMPTS, STOP, TOKENIZER, build, ids_of
from test_chunked_head import dense, inputs, ours
from tiny import METHODS, build_model, build_trainer, chunks_of, weights_of

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


@pytest.mark.parametrize("tokens", [50, 1024])  # of one chunk, of several and an odd last one
@pytest.mark.parametrize("name", ["nll", "forward", "jensen_shannon"])
def test_the_compiled_head_gives_the_dense_gradients(name, tokens):
    """In float32; the dense result in float64 on the CPU."""
    head, *tensors = inputs(tokens)
    expected = gradients(dense, name, head, tensors, torch.float64, "cpu")
    with chunks_of(300):
        found = gradients(ours, name, head, tensors, torch.float32, GPU)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one.double().cpu(), other, rtol=2e-4, atol=2e-4 * float(other.abs().max())
        )


def test_bfloat16_sums_the_heads_gradient_in_float32():
    """As on the CPU: the error of many chunks stays that of one."""
    head, *tensors = inputs(1024)
    exact = gradients(ours, "nll", head, tensors, torch.float64, "cpu")[1]
    errors = []
    for size in (10_000, 16):
        with chunks_of(size):
            found = gradients(ours, "nll", head, tensors, torch.bfloat16, GPU)[1]
        errors.append(float((found.double().cpu() - exact).norm() / exact.norm()))
    assert 1e-4 < errors[0] < 2e-2 and errors[1] < 1.2 * errors[0], errors


def gradients(loss, name, head, tensors, dtype, device):
    """To the student's hidden states and to the head."""
    head = copy.deepcopy(head).to(device, dtype)
    head.weight.grad = None
    placed = [t.detach().to(device, dtype if t.is_floating_point() else t.dtype) for t in tensors]
    placed[0].requires_grad_()
    loss(name, head, *placed).backward()
    return placed[0].grad, head.weight.grad


@pytest.mark.parametrize("compiled", [False, True])
def test_an_update_in_bfloat16_is_that_of_float32(tmp_path, compiled):
    """Through shards, micro-batches of several shapes, and with layers that are compiled."""
    moved = []
    for precision in ("float32", "bfloat16"):
        model = build_model().to(GPU)
        before, replica = weights_of(model), copy.deepcopy(model)
        if precision == "bfloat16":
            if compiled:
                sharding.compile_layers(model)
            sharding.shard(model, GPU, precision)
        trainer = build_trainer(METHODS["sgpo"](), tmp_path / precision, model=model, num_steps=1)
        inner = CompactSampler(replica, trainer.rollout.tokenizer, stop_ids=STOP)
        trainer.rollout.sampler = ReplicaSampler(replica, inner)
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1.0
        trainer.run()
        after = dict(sharding.full_state(model))
        moved.append(torch.cat([(after[k].cpu() - before[k].cpu()).flatten() for k in before]))
    error = (moved[0] - moved[1]).norm() / moved[0].norm()
    assert 0 < error < 0.1, float(error)
