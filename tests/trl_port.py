"""SFT+GRPO by other people's code, for ``sgpo check-port``: TRL's GRPOTrainer in a mini world.

Same problems, prompts, rewards and recipe as our run, whose warm-up it starts from; TRL samples,
standardises rewards, clips and steps by itself. Needs ``pip install trl accelerate`` and a
study with weights on this machine:

    python tests/trl_port.py results/mini --model qwen-m --world 0 --out curves.csv
    sgpo check-port curves.csv --method grpo --model qwen-m
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from benchmarks.store.records import Study
from benchmarks.store.runs import stored_runs
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.mini.sets import training_problems
from sgpo.mini.world import draw_world
from sgpo.mini.writing import is_right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", default="qwen-m")
    parser.add_argument("--world", type=int, default=0)
    parser.add_argument("--steps", type=int, help="rollouts (default: as many as our run's)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    (cell,) = (
        c
        for c in Study.read(options.results).cells
        if (c.model, c.method, c.seed) == (options.model, "grpo", options.world)
    )
    config = stored_runs(options.results)[cell.run_id].object("config.json")
    rewards = port(options.results, config, options.steps or config["train"]["num_steps"])
    rows = pd.DataFrame({"step": range(1, len(rewards) + 1), "reward": rewards})
    rows.to_csv(options.out, index=False)


def port(results: Path, config: dict, steps: int) -> list[float]:
    """The mean reward of each rollout of TRL's training."""
    start = results / "runs" / config["parent"] / "model"
    tokenizer, spec = AutoTokenizer.from_pretrained(start), PROMPT_SPECS[config["prompt"]]
    problems = training_problems(draw_world(config["seed"]), "rl", config["data"]["expert_gap"])
    prompts = [spec.prompt_ids(tokenizer, problem) for problem in problems]
    texts = [tokenizer.decode(ids) for ids in prompts]
    assert [tuple(tokenizer(text)["input_ids"]) for text in texts] == prompts
    rows = [{"prompt": t, "gold": p.answer} for t, p in zip(texts, problems, strict=True)]
    means: list[float] = []

    def right(completions: list[str], gold: list[str], **_) -> list[float]:
        found = [float(is_right(c, g)) for c, g in zip(completions, gold, strict=True)]
        means.append(sum(found) / len(found))
        return found

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        reward_funcs=right,
        args=recipe(config, steps, list(spec.stop_ids(tokenizer))),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return means


def recipe(config: dict, steps: int, stops: list[int]) -> GRPOConfig:
    """Our run's settings under TRL's names."""
    train, rollout, settings = config["train"], config["rollout"], config["settings"]
    updates, samples = train["updates_per_step"], settings["num_samples"]
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps * updates,
        num_generations=samples,
        per_device_train_batch_size=train["problems_per_step"] * samples // updates,
        steps_per_generation=updates,
        learning_rate=train["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=train["weight_decay"],
        max_grad_norm=train["grad_clip"],
        temperature=rollout["temperature"],
        top_p=rollout["top_p"],
        top_k=0,
        max_completion_length=rollout["max_tokens"],
        generation_kwargs={"eos_token_id": stops},
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        beta=0.0,
        loss_type="grpo",
        scale_rewards="group",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=config["seed"],
    )


if __name__ == "__main__":
    main()
