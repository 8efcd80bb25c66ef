"""Two published checkpoints with their own tokenizers, templates and weights, along the whole path.

They are made by ``python tests/real_checkpoints.py``; without them these tests say what is absent.
Training runs on their first two layers, everything else on the whole models.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import real_checkpoints
import torch
from tiny import METHODS, build_rollout, weights_of
from transformers import AutoModelForCausalLM

from benchmarks.cli import main
from benchmarks.store.runs import stored_runs
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.core.models import load_model, load_tokenizer
from sgpo.core.prompts import native_spec
from sgpo.core.sampling import CompactSampler, SamplingParams, TransformersSampler
from sgpo.core.sampling.ranks import ReplicaSampler
from sgpo.core.trainer import Trainer
from sgpo.core.types import Problem

PROBLEMS = [
    Problem(
        f"p{i}",
        f"Anna has {i} apples and buys {i + 2} more. How many does she have?",
        str(2 * i + 2),
        strategy="Add what is bought to what was there.",
        expert=f"{i} + {i + 2} = {2 * i + 2}, so \\boxed{{{2 * i + 2}}}.",
    )
    for i in range(3, 7)
]


@pytest.fixture(scope="module", params=real_checkpoints.SOURCES)
def real(request):
    """Directory, float32 model, tokenizer, prompt spec and stop ids of a checkpoint."""
    path = real_checkpoints.directory(request.param)
    if not path.exists():
        pytest.skip(f"{path} is absent: python tests/real_checkpoints.py {request.param}")
    tokenizer = load_tokenizer(path)
    spec = native_spec(tokenizer)
    return SimpleNamespace(
        path=path,
        model=load_model(path),
        tokenizer=tokenizer,
        spec=spec,
        stop=spec.stop_ids(tokenizer),
        prompts=[spec.prompt_ids(tokenizer, p, guided=i == 1) for i, p in enumerate(PROBLEMS[:2])],
    )


def ids_of(groups):
    return [[c.token_ids for c in group] for group in groups]


def test_prompt_and_target_are_what_the_template_renders(real):
    problem, tokenizer = PROBLEMS[0], real.tokenizer
    ids = real.spec.prompt_ids(tokenizer, problem) + real.spec.target_ids(tokenizer, problem.expert)
    turns = [("user", problem.question + real.spec.suffix), ("assistant", problem.expert)]
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False
    )
    assert tokenizer.decode(ids) == rendered.rstrip()
    assert tuple(tokenizer(rendered.rstrip(), add_special_tokens=False)["input_ids"]) == ids


def test_both_decoders_draw_what_the_model_says(real):
    """Greedy ids are those of ``generate``; sampled ones are equal between two implementations."""
    samplers = [
        kind(real.model, real.tokenizer, stop_ids=real.stop)
        for kind in (CompactSampler, TransformersSampler)
    ]
    greedy = SamplingParams(max_tokens=16, temperature=1e-4, seed=1)
    for prompt in real.prompts:
        ids = torch.tensor([prompt])
        out = real.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=list(real.stop),
            repetition_penalty=1.0,
        )
        expected = [[tuple(out[0, len(prompt) :].tolist())]]
        assert all(ids_of(s.sample([prompt], 1, greedy)) == expected for s in samplers)
    params = SamplingParams(max_tokens=16, temperature=1.0, top_p=0.95, seed=1)
    ours, theirs = (ids_of(s.sample(real.prompts, 2, params)) for s in samplers)
    assert ours == theirs


def trainer_of(real, method, run_dir: Path, num_steps: int) -> Trainer:
    """On the first two layers of the checkpoint: its vocabulary, template and weights."""
    model = copy.deepcopy(real.model)
    model.base_model.layers = model.base_model.layers[:2]
    model.config.num_hidden_layers = 2
    sampler = CompactSampler(model, real.tokenizer, stop_ids=real.stop)
    given = {"tokenizer": real.tokenizer, "prompt_spec": real.spec, "sampler": sampler}
    rollout = build_rollout(model, 1, config=RolloutConfig(max_tokens=6), **given)
    config = TrainConfig(
        num_steps=num_steps,
        problems_per_step=2,
        learning_rate=1e-5,
        checkpoint_every=1,
        samples_per_problem=24 if method == "dapo" else None,  # it alone draws more than once
    )
    return Trainer(
        model=model,
        method=METHODS[method](),
        rollout=rollout,
        problems=PROBLEMS,
        config=config,
        seed=1,
        run_dir=run_dir,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_step(real, method, tmp_path):
    trainer = trainer_of(real, method, tmp_path, 1)
    before = copy.deepcopy(weights_of(trainer.model))
    trainer.run()
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert row["step"] == 1 and row["loss"] == row["loss"]
    moved = [not torch.equal(before[k], v) for k, v in weights_of(trainer.model).items()]
    assert any(moved) == (row["grad_norm"] > 0)


def test_pocket_runs_on_its_own_data(tmp_path, monkeypatch):
    """GSM8K as published, base model, warm-up, SGPO and SFT+GRPO for two steps."""
    model = real_checkpoints.directory("smollm2-135m")
    source = Path(os.environ.get("SGPO_DATA_DIR", "absent")).absolute() / "gsm8k"
    for path, remedy in ((model, "real_checkpoints.py"), (source, "set SGPO_DATA_DIR")):
        if not path.exists():
            pytest.skip(f"{path} is absent: {remedy}")
    monkeypatch.chdir(tmp_path)
    given = ["--source", str(source), "--strategies", str(source / "strategies.jsonl")]
    assert main(["data", "gsm8k", *given]) == 0
    settings = {
        "checkpoint": model.absolute(),
        "device": "cpu",
        "precision": "float32",
        "train.num_steps": 2,
        "train.problems_per_step": 2,
        "train.held_out_share": 0,
        "rollout.max_tokens": 16,
        "evaluation.max_tokens": 16,
        "evaluation.problem_limit": 2,
    }
    fixed = ["study", "--profile", "pocket", "--models", "smollm2-360m", "--jobs", "1"]
    chosen = ["--methods", "base,sft,sgpo,grpo"]
    changed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert main([*fixed, *chosen, *changed]) == 0
    runs = stored_runs(tmp_path / "results/pocket").values()
    regimes = {run.object("config.json")["method"]: run.object("regime.json") for run in runs}
    assert {*regimes} == {"base", "sft", "sgpo", "grpo"}
    assert all(found["problems"] == 2 for found in regimes.values())
    page = (tmp_path / "results/pocket/REPORT.md").read_text()
    assert "smollm2-135m in place of SmolLM2-360M-Instruct" in page
    assert "at most 16 tokens; samples a problem: GSM8K 1" in page


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_the_models_own(real, dtype):
    """Of the tokens that the compact decoder drew: within rounding in float32; in bfloat16 no
    further from float32 than the model's own forward pass is, by half."""
    exact, model = real.model, real.model
    if dtype == torch.bfloat16:
        model = AutoModelForCausalLM.from_pretrained(real.path, dtype=dtype).eval()
    sampler = CompactSampler(model, real.tokenizer, stop_ids=real.stop)
    replica = ReplicaSampler(model, sampler)
    sampler.own_weights = True
    params = SamplingParams(max_tokens=16, seed=2, logprobs=True)
    ours, wanted, rounded = [], [], []
    for prompt, group in zip(real.prompts, replica.sample(real.prompts, 1, params), strict=True):
        whole = torch.tensor([[*prompt, *group[0].token_ids]])
        ours.append(torch.tensor(group[0].sampler_logprobs))
        for kept, one in ((wanted, exact), (rounded, model)):
            with torch.no_grad():
                logprobs = one(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            kept.append(logprobs.gather(1, whole[0, len(prompt) :, None]).squeeze(1))
    ours, wanted, rounded = (torch.cat(x) for x in (ours, wanted, rounded))
    gap = float((ours - wanted).abs().mean())
    if dtype == torch.float32:
        assert gap < 1e-4
    else:
        assert gap < 1.5 * float((rounded - wanted).abs().mean()) < 0.3
