"""SGPO: GRPO on the model's own attempts plus distillation of what a strategy changes.

Implements Eq. 1-7 of arXiv 2606.24064: per problem, ``num_autonomous`` samples from pi(.|q) and
``num_guided`` from pi(.|q, s); the autonomous group feeds a clipped surrogate (Eq. 1), the most
reachable correct guided completion (Eq. 4) a clipped token-level KL (Eq. 2, 3, 5), weighted per
problem by how much guidance helped (Eq. 6). Every ablation of the paper is a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from sgpo import objective
from sgpo.core import losses
from sgpo.core.config import added, check_fields, require, require_clip, require_positive
from sgpo.core.scoring import step_totals, surrogate_loss, taught_divergence
from sgpo.core.teacher import Teacher
from sgpo.core.types import LossOutput, Role, Trajectory


@dataclass(frozen=True)
class SGPOConfig:
    """Recipe of SGPO; the defaults are the paper's.

    Args:
        num_autonomous, num_guided: samples per problem and step (G1, G2).
        clip_low, clip_high: trust region of Eq. 1.
        kl_threshold: delta of Eq. 5 in nats; ``inf`` is the ablation without KL clipping.
        alpha_mode: ``adaptive`` Eq. 6; ``fixed`` the constant ``alpha_fixed``;
            ``group_advantage`` Eq. 8; ``zero`` no distillation: with all samples autonomous this
            is SFT+GRPO.
        alpha_base, alpha_smoothing, alpha_max: a0, g and the cap of Eq. 6.
        direction: ``forward`` KL(guided || unguided), or ``reverse`` (Table 6).
        distillation: ``kl``, ``nll`` of the same completion (Table 3), or ``nll_masked``: that
            with the tokens above ``kl_threshold`` masked out, as in Eq. 5.
        select_target: Eq. 4; off, all correct guided completions are averaged.
        length_normalized_selection: rank candidates by mean instead of summed log-probability.
        autonomous_term: off, only the distillation term trains (Table 2).
        leave_out: the first token, or a class of tokens of the miniature, that teaches nothing.
        teacher: the policy as it is, or with its ``initial`` weights; ``sharpness`` multiplies its
            logits.
        verified: off, targets are drawn from all guided completions, wrong ones too.
    """

    num_autonomous: int = 8  # paper
    num_guided: int = 4  # paper
    clip_low: float = 0.2  # paper
    clip_high: float = 0.28  # paper
    kl_threshold: float = 1.0  # paper
    alpha_mode: Literal["adaptive", "fixed", "group_advantage", "zero"] = "adaptive"  # paper
    alpha_fixed: float = 1.0  # paper, Table 7
    alpha_base: float = 0.5  # paper
    alpha_smoothing: float = 0.1  # paper
    alpha_max: float = 0.8  # paper
    direction: Literal["forward", "reverse"] = "forward"  # paper
    distillation: Literal["kl", "nll", "nll_masked"] = "kl"  # paper
    select_target: bool = True  # paper
    length_normalized_selection: bool = False  # paper: Eq. 4 is a sum
    autonomous_term: bool = True  # paper
    # One factor at a time, to see what the distillation teaches by.
    leave_out: Literal["nothing", "first", "choice", "commitment", "style", "routine"] = added(
        "nothing"
    )
    teacher: Literal["current", "initial"] = added("current")
    sharpness: float = added(1.0)
    verified: bool = added(True)

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "num_autonomous kl_threshold alpha_smoothing alpha_max sharpness")
        require_clip(self)
        require(self, "num_guided alpha_fixed alpha_base", least=0)
        if (self.num_guided > 0) == (self.alpha_mode == "zero"):
            raise ValueError(
                f"num_guided={self.num_guided} with alpha_mode={self.alpha_mode!r}: guided samples "
                "are drawn exactly when something is distilled from them"
            )
        for name in ("leave_out", "teacher", "sharpness", "verified"):
            value = getattr(self, name)
            if self.alpha_mode == "zero" and value != getattr(SGPOConfig, name):
                raise ValueError(f"{name}={value}: with alpha_mode=zero nothing is distilled")
        if not self.verified and not self.select_target and self.alpha_mode == "group_advantage":
            raise ValueError(
                "verified=False with select_target=False: Eq. 8 weighs one target by its reward, "
                "and these differ in theirs; take another alpha_mode"
            )


class SGPO:
    """The ``Method`` of arXiv 2606.24064; see ``SGPOConfig`` for its variants.

    With a ``classifier`` (class ``names``; called with token ids [B, T] it gives places in them)
    the KL mass and its masked part are logged for each class of tokens. A ``ledger`` sums those of
    this rank over the run: ``add(problem_ids, targets, mask, kl, dropped)`` of tensors [B, T], and
    ``sums``, which JSON holds. But for ``leave_out`` no number of the training depends on either.
    """

    def __init__(self, config: SGPOConfig, classifier: Any = None, ledger: Any = None) -> None:
        if config.leave_out not in ("nothing", "first") and classifier is None:
            raise ValueError(
                f"leave_out={config.leave_out}: only the miniature knows of every token what it is "
                "for; elsewhere first or nothing"
            )
        self.config, self.classifier, self.ledger = config, classifier, ledger
        self.shows = () if config.alpha_mode == "zero" else ("strategy",)
        self.teacher = Teacher() if config.teacher == "initial" else None

    def state(self):
        """What the ledger has counted."""
        return {"ledger": self.ledger.sums} if self.ledger else {}

    def load_state(self, state):
        """Go on counting from there."""
        if self.ledger and state.get("ledger") is not None:
            self.ledger.sums = state["ledger"]

    def collect(self, problems, rollout):
        """Autonomous trajectories with their advantages, then the guided targets, whose
        ``weight`` is alpha(q) (divided by |C| where all of C is distilled)."""
        autonomous = rollout.groups(problems, self.config.num_autonomous)
        collected = losses.with_advantages(autonomous, losses.group_standardized)
        if self.config.alpha_mode == "zero":
            return collected
        guided = rollout.groups(problems, self.config.num_guided, guided=True)
        chosen = self._targets(guided, rollout)
        for own, helped, targets in zip(autonomous, guided, chosen, strict=True):
            if targets:
                alpha = self._alpha(own, helped, targets[0].reward)
                collected += [t.with_(weight=alpha / len(targets)) for t in targets]
        return collected

    def _targets(self, guided: list[list[Trajectory]], rollout) -> list[list[Trajectory]]:
        """Per problem the guided completions to distil: Eq. 4's one, all of C, or none."""
        trusted = not self.config.verified
        correct = [[t for t in group if trusted or t.reward == 1.0] for group in guided]
        if not self.config.select_target:
            return correct
        contested = [t for group in correct if len(group) > 1 for t in group]
        scores = iter(rollout.logprobs(contested))
        mean = self.config.length_normalized_selection
        for group in correct:
            if len(group) > 1:
                rows = [next(scores) for _ in group]
                best = objective.select_reachable(
                    sum_logprobs=[float(r.mean() if mean else r.sum()) for r in rows],
                    correct=[True] * len(group),
                )
                group[:] = [] if best is None else [group[best]]
        return correct

    def _alpha(self, own, helped, selected_reward: float) -> float:
        config = self.config
        if config.alpha_mode == "fixed":
            return config.alpha_fixed
        rewards, of_helped = (torch.tensor([t.reward for t in group]) for group in (own, helped))
        if config.alpha_mode == "group_advantage":
            weight = objective.group_advantage_weight(
                rewards=rewards, selected_reward=selected_reward, maximum=config.alpha_max
            )
        else:
            weight = objective.adaptive_weight(
                pass_guided=of_helped.mean(),
                pass_autonomous=rewards.mean(),
                base=config.alpha_base,
                smoothing=config.alpha_smoothing,
                maximum=config.alpha_max,
            )
        return float(weight)

    def totals(self, trajectories):
        """The counts of ``step_totals``, and ``taught``: the problems with a target."""
        taught = {t.problem_id for t in trajectories if t.role is Role.GUIDED}
        return step_totals(trajectories) | {"taught": float(len(taught))}

    def loss(self, model, trajectories, totals):
        """Share of Eq. 7: L_GRPO + alpha * L_KD, averaged over the update's problems."""
        own = [t for t in trajectories if t.role is Role.AUTONOMOUS]
        targets = [t for t in trajectories if t.role is Role.GUIDED]
        terms, sums = [], {}
        for term, part in ((self._autonomous_loss, own), (self._distillation_loss, targets)):
            if part:
                loss, metrics = term(model, part, totals)
                terms.append(loss)
                sums |= metrics
        if self.config.alpha_mode != "zero":
            share = len(trajectories) / totals["trajectories"]
            alpha = sum(t.weight for t in targets)
            sums["alpha_mean"] = (alpha / totals["problems"], share)
            # Eq. 6 has a value for every problem; only those with a target use it.
            sums["alpha_of_targets"] = (alpha, totals["taught"] * share)
        return LossOutput(torch.stack(terms).sum(), sums)

    def _autonomous_loss(self, model, trajectories, totals):
        """Eq. 1 over the update's autonomous sequences; groups are of one size, so the mean over
        sequences is the mean over problems of the group mean."""
        trained = self.config.autonomous_term
        clip = {"clip_low": self.config.clip_low, "clip_high": self.config.clip_high}
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            count = totals["autonomous"]
            found = surrogate_loss(model, trajectories, clip, denominator=count)
        return found.loss if trained else torch.zeros_like(found.loss), found.sums

    def _distillation_loss(self, model, trajectories, totals):
        """alpha * Eq. 5 summed over the given targets, over the update's problems."""
        how = {"direction": self.config.direction, "sharpness": self.config.sharpness}
        kl, logprobs, student = taught_divergence(model, trajectories, teacher=self.teacher, **how)
        mask, threshold = student.completion_mask, self.config.kl_threshold
        teaching = self._teaching(student.targets)
        if self.config.distillation == "kl":
            per_sequence = objective.clipped_distillation(
                kl=torch.where(teaching, kl, 0.0), completion_mask=mask, kl_threshold=threshold
            )
        else:
            plain = self.config.distillation == "nll"
            kept = mask if plain else mask & objective.proximal_mask(kl, threshold).bool()
            per_sequence = -(logprobs * (kept & teaching)).sum(-1) / mask.sum(-1)
        weights = kl.new_tensor([t.weight for t in trajectories])
        metrics = self._kl_metrics(kl.detach()[mask], student.targets, mask)
        if self.ledger:
            dropped = objective.proximal_mask(kl.detach(), threshold) == 0
            ids = [t.problem_id for t in trajectories]
            self.ledger.add(ids, student.targets, mask, kl.detach(), dropped)
        metrics["target_length"] = (float(mask.sum()), float(len(trajectories)))
        return (weights * per_sequence).sum() / totals["problems"], metrics

    def _teaching(self, targets: torch.Tensor) -> torch.Tensor:
        """Which tokens ``leave_out`` leaves in, bool [B, T]."""
        left_out = torch.zeros_like(targets, dtype=torch.bool)
        if self.config.leave_out == "first":
            left_out[:, 0] = True
        elif self.config.leave_out != "nothing":
            place = self.classifier.names.index(self.config.leave_out)
            left_out = self.classifier(targets) == place
        return ~left_out

    def _kl_metrics(self, kl: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor):
        """Where the ``kl`` [N] of the unmasked ``targets`` lies and what Eq. 5 masks of it.
        ``kl_mass_<class>`` and ``kl_masked_<class>`` are shares of the whole mass, so that they add
        up over classes."""
        dropped = objective.proximal_mask(kl, self.config.kl_threshold) == 0
        tokens, mass = float(len(kl)), float(kl.sum())
        metrics = {
            "kl_mean": (mass, tokens),
            "kl_masked_share": (float(kl[dropped].sum()), mass),
            "kl_masked_token_share": (float(dropped.sum()), tokens),
        }
        if self.classifier:
            names, classes = self.classifier.names, self.classifier(targets)[mask]
            for what, chosen in (("mass", classes >= 0), ("masked", dropped)):
                sums = torch.bincount(classes[chosen], kl[chosen], minlength=len(names))
                for name, value in zip(names, sums.tolist(), strict=True):
                    metrics[f"kl_{what}_{name}"] = (value, mass)
        return metrics
