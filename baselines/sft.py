"""SFT on expert traces: the warm-up of every RL method, and the row "SFT" of Table 1.

Standard maximum likelihood of the expert's tokens given the unguided prompt; it samples nothing.
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.config import added
from sgpo.core.logprobs import token_stats
from sgpo.core.scoring import padded, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class SFTConfig:
    """
    Args:
        show_strategies: learn problems that have a strategy under the prompt that shows it, and the
            form of an answer so under both prompts. Not in the paper.
    """

    show_strategies: bool = added(False)


class SFT:
    """The ``Method`` of supervised fine-tuning."""

    totals = staticmethod(step_totals)

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        demonstrations = rollout.demonstrations(problems)
        if not self.config.show_strategies:
            return demonstrations
        shown = [p for p in problems if p.strategy]
        prompts = rollout.prompts(shown, shown="strategy")
        guided = {p.id: prompt for p, prompt in zip(shown, prompts, strict=True)}
        return [t.with_(prompt_ids=guided.get(t.problem_id, t.prompt_ids)) for t in demonstrations]

    def loss(self, model, trajectories, totals):
        """Mean negative log-likelihood over all expert tokens of the update."""
        batch = padded(trajectories).to(model.device)
        loss = losses.negative_log_likelihood(
            logprobs=token_stats(model, batch, entropy="none").logprobs,
            completion_mask=batch.completion_mask,
            denominator=totals["tokens"],
        )
        return LossOutput(loss)
