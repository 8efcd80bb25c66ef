"""SDPO (arXiv 2601.20802): the policy that has seen a right answer of its own teaches itself.

Every sample is scored again with another, right sample of the same group in the prompt, by a moving
average of the policy, and moved towards that distribution; samples without such a sibling are left
out. As the authors run it, a Jensen-Shannon divergence over the student's 100 likeliest tokens and
a tail::

    L = 1/sum|y| sum_t min(pi/pi_old, 2) JSD_beta( sg[teacher(.|q, sibling, y_<t)] , pi(.|q, y_<t) )

with beta = 0.5 and the teacher's weights moved by 5% after every update. No reward enters the loss
but through the choice of siblings.

Deviation: the comparison's 12 samples. The sibling stands in the prompt as an expert's solution
would (the prompt spec's ``solved`` form), in words of the spec instead of the authors' template.
"""

from dataclasses import dataclass, replace

from sgpo.core import losses
from sgpo.core.config import check_fields, require, require_positive
from sgpo.core.logprobs import TopK
from sgpo.core.prompts import special_token_in
from sgpo.core.scoring import old_values, step_totals, taught_divergence
from sgpo.core.teacher import Teacher
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class SDPOConfig:
    """Args:
    num_samples: of a group.
    beta: weight of the teacher's side of the divergence, above 0 and below 1.
    top_k: tokens compared one by one, the rest together.
    teacher_rate: share of the way to the policy that the teacher moves after every update.
    max_ratio: cap on the importance ratio of a token.
    """

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    beta: float = 0.5  # authors' script
    top_k: int = 100  # authors' script
    teacher_rate: float = 0.05  # authors' script
    max_ratio: float = 2.0  # authors' script

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "num_samples", least=2)
        require(self, "beta", above=0, below=1)
        require_positive(self, "max_ratio")


class SDPO:
    """The ``Method`` of SDPO."""

    totals = staticmethod(step_totals)
    shows = ("sample",)

    def __init__(self, config: SDPOConfig) -> None:
        self.config = config
        self.teacher = Teacher(ema=config.teacher_rate)
        self.compared = TopK(config.top_k, of="student")

    def collect(self, problems, rollout):
        """The samples with a right sibling; the teacher's prompt is their second one."""
        taught, shown = [], []
        groups = rollout.groups(problems, self.config.num_samples)
        for problem, group in zip(problems, groups, strict=True):
            right = [(t, _text(t, rollout.tokenizer)) for t in group if t.reward == 1.0]
            for t in group:
                text = next((x for other, x in right if other is not t and x), None)
                if text is not None:
                    taught.append(t)
                    shown.append(replace(problem, expert=text))
        prompts = rollout.prompts(shown, shown="solution")
        return [t.with_(second_prompt_ids=p) for t, p in zip(taught, prompts, strict=True)]

    def loss(self, model, trajectories, totals):
        """Mean divergence over the taught tokens of the update, in nats."""
        divergence, logprobs, read = taught_divergence(
            model,
            trajectories,
            direction="jensen_shannon",
            beta=self.config.beta,
            top_k=self.compared,
            teacher=self.teacher,
        )
        logprobs, mask = logprobs.detach(), read.completion_mask
        ratio = losses.importance_ratio(logprobs, old_values(trajectories, logprobs))
        loss = losses.reduce_tokens(
            ratio.clamp(max=self.config.max_ratio) * divergence,
            mask,
            reduction="token_mean",
            denominator=totals["tokens"],
        )
        mass = float(divergence.detach()[mask].sum())
        return LossOutput(loss, {"divergence_mean": (mass, float(mask.sum()))})


def _text(trajectory, tokenizer) -> str:
    """What a prompt may show of ``trajectory``; nothing where it spells a special token."""
    text = tokenizer.decode(trajectory.completion_ids, skip_special_tokens=True)
    return "" if special_token_in(tokenizer, text) else text.strip()
