"""Does guidance help a real model? Pass rates on the development split of its training set, under
the prompt with the strategy and under the one without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from benchmarks.run.evaluate import judged, sample_rows
from sgpo.core.config import RolloutConfig
from sgpo.core.prompts import PromptSpec
from sgpo.core.sampling import Sampler, SamplingParams
from sgpo.core.seeding import derive_seed
from sgpo.core.types import FinishReason, Problem

SAMPLES = 4  # of a problem and prompt; ours


def measure_guidance(
    sampler: Sampler,
    tokenizer: Any,
    spec: PromptSpec,
    config: RolloutConfig,
    problems: Sequence[Problem],
    seed: int,
) -> dict[str, Any]:
    """Pass rates and shares of answers that were cut off, sampled as in training, and the
    difference guided minus unguided with a 95% interval over problems (t; None without spread)."""
    found: dict[str, Any] = {"problems": len(problems), "samples": SAMPLES}
    rates = {}
    for name in ("unguided", "guided"):
        prompts = [spec.prompt_ids(tokenizer, p, guided=name == "guided") for p in problems]
        params = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=derive_seed(seed, "regime", name),
        )
        rows = judged(sample_rows(problems, sampler.sample(prompts, SAMPLES, params), spec))
        cut = [row["finish_reason"] == FinishReason.LENGTH.value for row in rows]
        rates[name] = np.array([row["correct"] for row in rows]).reshape(-1, SAMPLES).mean(1)
        found[name] = {"pass_rate": float(rates[name].mean()), "cut_off": float(np.mean(cut))}
    gains = rates["guided"] - rates["unguided"]
    mean, interval = float(gains.mean()), [None, None]
    if len(gains) > 1 and gains.std() > 0:  # equal gains say nothing about how far off they are
        half = student_t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
        interval = [mean - float(half), mean + float(half)]
    return found | {"difference": mean, "interval": interval}
