"""The one training loop, on one process or many ranks. It runs any ``Method`` and knows none."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sgpo.core import sharding
from sgpo.core.checkpoint import load_checkpoint, save_checkpoint
from sgpo.core.config import TrainConfig
from sgpo.core.distributed import Ranks, check_share, places_of, weighted_means
from sgpo.core.method import Method
from sgpo.core.rollout import Rollout
from sgpo.core.runlog import MetricsLog
from sgpo.core.scoring import micro_batches, own_logprobs
from sgpo.core.seeding import generator
from sgpo.core.types import Problem, Spent, Trajectory

Sums = dict[str, list[float]]


class Diverged(RuntimeError):
    """Training stopped on a non-finite loss or a collapse; the message says which and when.

    ``fatal`` is True for a non-finite loss. The model holds the last weights before it.
    """

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Trainer:
    """Runs ``config.num_steps`` steps of ``method`` on ``problems``, resuming where it stopped.

    The problems of a step and the noise of its samples depend on the seed and the step alone, so
    that a run that was killed and resumed equals one that was not. Ranks share each step's
    problems; all counts are taken over all ranks, so that their number changes nothing but
    rounding. Rank 0 alone writes.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        method: Method,
        rollout: Rollout,
        problems: Sequence[Problem],
        config: TrainConfig,
        seed: int,
        run_dir: Path,
        progress: Callable[[int, int], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        if len(problems) < config.problems_per_step:
            raise ValueError(
                f"problems_per_step={config.problems_per_step}: only {len(problems)} problems "
                "are left to train on"
            )
        check_share(self.ranks, config.problems_per_step, config.updates_per_step)
        self.model, self.method, self.rollout = model, method, rollout
        self.problems, self.config, self.seed = list(problems), config, seed
        self.run_dir, self.progress = run_dir, progress or (lambda done, total: None)
        # foreach makes a step of many small tensors a few kernels instead of hundreds.
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.collapsed_steps = 0

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Diverged: see there; the metrics up to that step are on disk.
        """
        checkpoints = self.run_dir / "checkpoints"
        restored = load_checkpoint(checkpoints, self.model, self.optimizer, self.ranks)
        start = 0
        if restored:
            start, extra = restored
            self.collapsed_steps = extra["collapsed_steps"]
            if self.ranks.first:  # sums over ranks
                self.rollout.spent = Spent(**extra["spent"])
        log = None
        if self.ranks.first:
            log = MetricsLog(self.run_dir / "metrics.jsonl", resume_after=start)
        self.rollout.sampler.sync(self.model)
        for step in range(start + 1, self.config.num_steps + 1):
            self.progress(step - 1, self.config.num_steps)
            began = time.perf_counter()
            record = self.step(step)
            record["seconds"] = round(time.perf_counter() - began, 4)
            if log:
                log.write(record)
            self._stop_on_collapse(step, record)
            if step % self.config.checkpoint_every == 0 and step < self.config.num_steps:
                spent = {f.name: record[f.name] for f in fields(Spent)}
                extra = {"collapsed_steps": self.collapsed_steps, "spent": spent}
                save_checkpoint(checkpoints, step, self.model, self.optimizer, extra, self.ranks)
        self.progress(self.config.num_steps, self.config.num_steps)

    def step_problems(self, step: int) -> list[Problem]:
        """The problems of ``step`` (from 1): consecutive slices of seeded permutations, one
        permutation an epoch; a remainder too short for a step is left out of its epoch."""
        size = self.config.problems_per_step
        per_epoch = len(self.problems) // size
        epoch, slot = divmod(step - 1, per_epoch)
        order = torch.randperm(
            len(self.problems), generator=generator(self.seed, "data", epoch)
        ).tolist()
        return [self.problems[i] for i in order[slot * size : (slot + 1) * size]]

    def learning_rate(self, step: int) -> float:
        """Rate of ``step`` (from 1): a linear rise over the warm-up share, then constant."""
        rise = math.ceil(self.config.warmup_share * self.config.num_steps)
        return self.config.learning_rate * min(1.0, step / rise if rise else 1.0)

    def step(self, step: int) -> dict[str, float | int]:
        """Sample, update and record ``step`` (from 1); its metrics over all ranks."""
        problems = self.step_problems(step)
        own = problems
        if self.ranks.size > 1:
            places = places_of(self.ranks, len(problems), self.config.updates_per_step)
            own = [problems[i] for i in places]
            self.rollout.begin_step(step, {problems[i].id: i for i in places})
        else:
            self.rollout.begin_step(step)
        self.model.eval()  # no dropout anywhere: the sampled and the scored policy are one
        with self.ranks.watched("training"):
            sharding.gather(self.model)
            trajectories = self.method.collect(own, self.rollout)
            self.rollout.sampler.release()
            sums: Sums = defaultdict(lambda: [0.0, 0.0])
            for update in self._updates(problems, trajectories):
                self.update(step, update, sums)
            self.rollout.sampler.sync(self.model)
        return self._record(step, len(own), sums)

    def _record(self, step: int, num_problems: int, sums: Sums) -> dict[str, float | int]:
        """The metrics of a step over all ranks, of which this one had ``num_problems``."""
        stats = weighted_means(self.ranks, self.rollout.stats, num_problems)
        record: dict[str, float | int] = {"step": step, **stats}
        for name, (numerator, denominator) in sorted(sums.items()):
            if denominator > 0:
                record[name] = numerator / denominator
        record["learning_rate"] = self.learning_rate(step)
        return record | self.ranks.add(asdict(self.rollout.spent))

    def _updates(
        self, problems: Sequence[Problem], trajectories: list[Trajectory]
    ) -> list[list[Trajectory]]:
        """Trajectories of each consecutive update, split by problem. Of several updates, all know
        the log-probabilities of the policy before the first: a method's own, or filled in here."""
        count = self.config.updates_per_step
        if count == 1:
            return [trajectories]
        unknown = [t for t in trajectories if t.old_logprobs is None]
        rows = iter(own_logprobs(self.model, unknown, self.config.micro_batch_tokens))
        self.rollout.spent.scored_tokens += sum(len(t.completion_ids) for t in unknown)
        size = len(problems) // count
        update_of = {p.id: i // size for i, p in enumerate(problems)}
        updates: list[list[Trajectory]] = [[] for _ in range(count)]
        for t in trajectories:
            # One of another step (a replay) goes with those of its problem into any one update.
            update = update_of.setdefault(t.problem_id, len(update_of) % count)
            known = t if t.old_logprobs is not None else t.with_(old_logprobs=next(rows))
            updates[update].append(known)
        return updates

    def update(self, step: int, trajectories: list[Trajectory], sums: Sums) -> None:
        """One optimiser update; metrics are added to ``sums``."""
        totals = self.ranks.add(self.method.totals(trajectories))
        # Forward passes over completion tokens; a second prompt means a teacher's pass as well.
        self.rollout.spent.scored_tokens += sum(
            len(t.completion_ids) * (2 if t.second_prompt_ids else 1) for t in trajectories
        )
        self.optimizer.zero_grad(set_to_none=True)
        sharding.gather(self.model)
        loss = 0.0
        counts: Sums = defaultdict(lambda: [0.0, 0.0])
        for batch in micro_batches(trajectories, self.config.micro_batch_tokens):
            output = self.method.loss(self.model, batch, totals)
            if output.loss.requires_grad:
                output.loss.backward()
            loss += float(output.loss.detach())
            for name, (numerator, denominator) in output.sums.items():
                counts[name][0] += numerator
                counts[name][1] += denominator
        sharding.reduce_gradients(self.model)
        norm = sharding.clip_gradients(self.optimizer, self.config.grad_clip)
        loss = self.ranks.add({"loss": loss})["loss"]
        numerators = self.ranks.add({name: c[0] for name, c in counts.items()})
        denominators = self.ranks.add({name: c[1] for name, c in counts.items()})
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {step}: loss {loss}, gradient norm {norm}: not finite; lower "
                f"train.learning_rate (now {self.config.learning_rate}) and run again",
                fatal=True,
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()
        for name, numerator in numerators.items():
            sums[name][0] += numerator
            sums[name][1] += denominators[name]
        for name, value in (("loss", loss), ("grad_norm", norm)):
            sums[name][0] += value
            sums[name][1] += 1.0

    def _stop_on_collapse(self, step: int, record: dict) -> None:
        """A policy that is always wrong and no longer explores will not come back."""
        if "reward" not in record or "entropy" not in record:
            return
        dead = record["reward"] == 0.0 and record["entropy"] < self.config.collapse_entropy
        self.collapsed_steps = self.collapsed_steps + 1 if dead else 0
        if self.collapsed_steps >= self.config.collapse_patience:
            raise Diverged(
                f"step {step}: reward 0 and entropy below {self.config.collapse_entropy} nats "
                f"for {self.collapsed_steps} steps",
                fatal=False,
            )
