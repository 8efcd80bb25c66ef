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
from engines import NO_VLLM, ids_of
from tiny import METHODS, build_rollout, weights_of
from transformers import AutoModelForCausalLM

from benchmarks.cli import main
from benchmarks.data.suites import SUITES, local_file
from benchmarks.store.runs import stored_runs
from sgpo.core.config import PROBE_TOLERANCE, RolloutConfig, TrainConfig, VLLMSettings
from sgpo.core.models import load_model, load_tokenizer
from sgpo.core.prompts import native_spec
from sgpo.core.sampling import CompactSampler, SamplingParams, TransformersSampler
from sgpo.core.sampling.ranks import ReplicaSampler
from sgpo.core.sampling.vllm import MIN_TEMPERATURE, VLLMSampler
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


def test_the_import_set_right_what_the_file_leaves_open(real):
    """Heads are tied, the end of turn is eos, the defaults name stops and no way to sample, and the
    record says which types the weights were restored from."""
    model, end = real.model, real.tokenizer.convert_tokens_to_ids("<|im_end|>")
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings and head.data_ptr() == embedding.data_ptr()
    assert real.tokenizer.eos_token_id == model.config.eos_token_id == real.stop[0] == end
    defaults = json.loads((real.path / "generation_config.json").read_text())
    ends = defaults["eos_token_id"]
    assert end in (ends if isinstance(ends, list) else [ends])
    assert not {"temperature", "top_p", "top_k", "repetition_penalty"} & {*defaults}
    assert "quantization_config" not in json.loads((real.path / "config.json").read_text())
    stored = json.loads((real.path / "import.json").read_text())["tensors"]
    assert any(kind.startswith("Q") for kind in stored), stored


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


def with_logprobs(model, real):
    """A compact sampler of ``model`` that reports the log-probability of what it draws."""
    sampler = CompactSampler(model, real.tokenizer, stop_ids=real.stop)
    replica = ReplicaSampler(model, sampler)
    sampler.own_weights = True
    return replica


def test_vllm_draws_what_the_compact_decoder_draws(real):
    """Greedily, as far as vLLM goes, and with the same log-probabilities."""
    pytest.importorskip("vllm", reason=NO_VLLM)
    settings = VLLMSettings(dtype="float32", max_num_seqs=8, max_model_len=512)
    params = SamplingParams(max_tokens=16, temperature=MIN_TEMPERATURE, seed=1, logprobs=True)
    samplers = (
        with_logprobs(real.model, real),
        VLLMSampler(real.model, real.tokenizer, stop_ids=real.stop, settings=settings),
    )
    ours, theirs = (s.sample(real.prompts, 1, params) for s in samplers)
    assert ids_of(ours) == ids_of(theirs)
    values = [[x for group in g for x in group[0].sampler_logprobs] for g in (ours, theirs)]
    gap = (torch.tensor(values[0]) - torch.tensor(values[1])).abs().mean()
    assert gap < PROBE_TOLERANCE["float32"]


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


def test_a_run_continues_where_it_ended(real, tmp_path):
    whole = trainer_of(real, "sgpo", tmp_path / "whole", 2)
    whole.run()
    trainer_of(real, "sgpo", tmp_path / "parts", 1).run()
    again = trainer_of(real, "sgpo", tmp_path / "parts", 2)
    again.run()
    for name, value in weights_of(whole.model).items():
        assert torch.equal(value, weights_of(again.model)[name]), name


def test_eight_problems_of_each_benchmark_are_evaluated(real, tmp_path):
    """Through the command, on the benchmarks' own texts."""
    absent = [suite for suite in SUITES if local_file(suite) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)}: set SGPO_DATA_DIR to a folder with benchmarks/*.jsonl")
    command = ["evaluate", "--model", str(real.path), "--suite", ",".join(SUITES)]
    limits = ["--problem-limit", "8", "--samples", "1", "--max-tokens", "8"]
    assert main([*command, *limits, "--out", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["benchmarks"]
    counts = {key: len(entry["verdicts"]) for key, entry in scores.items()}
    assert counts == dict.fromkeys(SUITES, 8)


@pytest.mark.parametrize(
    ("key", "label", "name"),
    [
        ("smollm2-360m", "SmolLM2-360M-Instruct", "smollm2-135m"),
        ("qwen2.5-0.5b", "Qwen2.5-0.5B-Instruct", "qwen2.5-coder-0.5b"),
    ],
)
def test_pocket_runs_on_its_own_data(tmp_path, monkeypatch, key, label, name):
    """GSM8K as published, base model, warm-up and the RL methods of Table 1 for two steps."""
    model = real_checkpoints.directory(name)
    source = Path(os.environ.get("SGPO_DATA_DIR", "absent")).absolute() / "gsm8k"
    for path, remedy in (
        (model, f"python tests/real_checkpoints.py {name}"),
        (source, "set SGPO_DATA_DIR"),
    ):
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
    fixed = ["study", "--profile", "pocket", "--models", key, "--jobs", "1"]
    methods = ("base", "sft", "sgpo", "grpo", "luffy", "hpt")
    chosen = ["--methods", ",".join(methods)]
    changed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert main([*fixed, *chosen, *changed]) == 0
    runs = stored_runs(tmp_path / "results/pocket").values()
    regimes = {run.object("config.json")["method"]: run.object("regime.json") for run in runs}
    assert {*regimes} == {*methods}
    assert all(found["problems"] == 2 for found in regimes.values())
    page = (tmp_path / "results/pocket/REPORT.md").read_text()
    assert f"{name} in place of {label}" in page
    assert "at most 16 tokens; samples a problem: GSM8K 1" in page


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_the_models_own(real, dtype):
    """Of the tokens that the compact decoder drew: within rounding in float32; in bfloat16 no
    further from float32 than the model's own forward pass is, by half."""
    exact, model = real.model, real.model
    if dtype == torch.bfloat16:
        model = AutoModelForCausalLM.from_pretrained(real.path, dtype=dtype).eval()
    params = SamplingParams(max_tokens=16, seed=2, logprobs=True)
    ours, wanted, rounded = [], [], []
    drawn = with_logprobs(model, real).sample(real.prompts, 1, params)
    for prompt, group in zip(real.prompts, drawn, strict=True):
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
