"""ReLIFT (arXiv 2506.07527): reinforcement learning interleaved with fine-tuning on what it cannot
solve.

Every problem without a single right sample goes, with the expert's trace, to the front of a buffer.
When it holds ``buffer_size`` traces, the step's RL update is followed by an update of its own on
the newest of them, which leave it::

    L_SFT = -1/sum|y*| sum_t log pi(y*_t | q, y*_<t) - entropy_coefficient mean_t H_t

Deviation: RL is Eq. 1 of arXiv 2606.24064, as in SFT+GRPO, so that the row shows what interleaving
adds; the authors' script leaves out the standard deviation and the clip and divides by a constant.
Both kinds of update share one optimiser and one learning rate (two of 1e-6 each there).
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.config import GroupConfig, require_positive
from sgpo.core.scoring import score_policy, step_totals, surrogate_loss
from sgpo.core.types import LossOutput, Role, Trajectory


@dataclass(frozen=True)
class ReLIFTConfig(GroupConfig):
    """``buffer_size`` and ``entropy_coefficient`` of the fine-tuning update; the trust region of
    the RL update is SFT+GRPO's."""

    buffer_size: int = 16  # authors' script: as many as a step has problems
    entropy_coefficient: float = 0.001  # authors' script

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "buffer_size")


class ReLIFT:
    """The ``Method`` of ReLIFT. The buffer is the same on every rank, newest trace first; the
    traces of one step lie in the order of its problems, whatever rank had them."""

    totals = staticmethod(step_totals)

    def __init__(self, config: ReLIFTConfig) -> None:
        self.config = config
        self.buffer = []  # (problem id, prompt, trace) each

    def collect(self, problems, rollout):
        """Samples with advantages, and this rank's share of the traces that are due."""
        groups = rollout.groups(problems, self.config.num_samples)
        unsolved = [
            problem
            for problem, group in zip(problems, groups, strict=True)
            if not any(t.reward for t in group)
        ]
        found = [
            (rollout.places.get(t.problem_id, 0), [t.problem_id, t.prompt_ids, t.completion_ids])
            for t in rollout.demonstrations(unsolved)
        ]
        found = sorted(rollout.gather(found), key=lambda placed: placed[0])
        self.buffer = [entry for _, entry in found] + self.buffer
        collected = losses.with_advantages(groups, losses.group_standardized)
        size = self.config.buffer_size
        if len(self.buffer) < size:
            return collected
        due, self.buffer = self.buffer[:size], self.buffer[size:]
        return collected + [_demonstration(*due[i]) for i in rollout.ranks.share(size)]

    def separate(self, trajectories):
        """The RL update's trajectories, and the traces of the update that follows it."""
        demos = [t for t in trajectories if t.role is Role.DEMO]
        return [t for t in trajectories if t.role is not Role.DEMO], demos

    def state(self):
        return {"buffer": self.buffer}

    def load_state(self, state):
        self.buffer = [[entry[0], entry[1], entry[2]] for entry in state["buffer"]]

    def loss(self, model, trajectories, totals):
        """Of the RL update, or of the fine-tuning update; a batch is of one kind."""
        count = totals["trajectories"]
        if trajectories[0].role is not Role.DEMO:
            return surrogate_loss(model, trajectories, self.config.clip, denominator=count)
        scores = score_policy(model, trajectories, entropy="loss")
        loss = -losses.reduce_tokens(
            scores.logprobs + self.config.entropy_coefficient * scores.entropy,
            scores.completion_mask,
            reduction="token_mean",
            denominator=totals["tokens"],
        )
        replayed = float(len(trajectories))
        return LossOutput(loss, {"replayed_traces": (replayed, replayed / count)})


def _demonstration(problem_id, prompt, trace) -> Trajectory:
    return Trajectory(problem_id, Role.DEMO, tuple(prompt), tuple(trace), reward=1.0)
