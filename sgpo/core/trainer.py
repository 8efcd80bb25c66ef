"""The one training loop, on one process or many ranks. It runs any ``Method`` and knows none."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sgpo.core import sharding
from sgpo.core.checkpoint import Checkpoints
from sgpo.core.config import TrainConfig
from sgpo.core.distributed import Ranks, check_share, places_of
from sgpo.core.method import (
    Method,
    Totals,
    call_optional,
    check_collected,
    check_hooks,
    restore_state,
    saved_state,
)
from sgpo.core.rollout import Rollout
from sgpo.core.runlog import MetricsLog
from sgpo.core.scoring import micro_batches, own_logprobs, split_updates
from sgpo.core.seeding import shuffled
from sgpo.core.teacher import Teacher
from sgpo.core.types import Problem, Role, Spent, Sums, Trajectory


class Diverged(RuntimeError):
    """Training stopped on a non-finite loss (``fatal``) or a collapse; the message says which and
    when. The model holds the last weights before it."""

    def __init__(self, message: str, *, fatal: bool, step: int | None = None) -> None:
        super().__init__(message)
        self.fatal, self.step = fatal, step


class Stopped(Exception):
    """Training or evaluation ended early because it was asked to; the same command goes on."""


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Runs ``config.num_steps`` steps of ``method`` on ``problems``, resuming where it stopped.

    The problems of a step and the noise of its samples depend on the seed and the step alone, so
    that a run that was killed and resumed equals one that was not. Ranks share each step's problems
    and count over all ranks, so that their number changes nothing but rounding. Rank 0 writes.
    """

    model: PreTrainedModel
    method: Method
    rollout: Rollout
    problems: Sequence[Problem]
    config: TrainConfig
    seed: int
    run_dir: Path
    progress: Callable[[int, int], None] = lambda done, total: None
    ranks: Ranks = Ranks()
    stop: Callable[[], bool] | None = None
    after_step: Callable[[int], None] = lambda step: None

    def __post_init__(self) -> None:
        config, run_dir, model = self.config, self.run_dir, self.model
        self.problems, self.held_out = _split(self.problems, config.held_out_share, self.seed)
        self._check()
        self.teacher: Teacher | None = getattr(self.method, "teacher", None)
        self.rollout.ranks = self.ranks
        self.rollout.alike = not hasattr(self.method, "more_problems")
        # foreach makes a step of many small tensors a few kernels instead of hundreds.
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        directory = run_dir / "checkpoints"
        self.states = Checkpoints(directory, model, self.optimizer, self.ranks)
        self.best_weights = Checkpoints(directory / "best", model, None, self.ranks)
        self.begun = False
        self.collapsed_steps = self.nonfinite_updates = 0  # in a row
        self.best: tuple[float, int] | None = None  # held-out loss of what is kept, its step
        self.diverged_past_budget: Diverged | None = None

    def _check(self) -> None:
        config = self.config
        if len(self.problems) < config.problems_per_step:
            raise ValueError(
                f"problems_per_step={config.problems_per_step}: only {len(self.problems)} problems "
                "are left to train on"
            )
        check_share(self.ranks, config.problems_per_step, config.updates_per_step)
        check_hooks(self.method)
        if hasattr(self.method, "more_problems") and config.samples_per_problem is None:
            raise ValueError(
                f"{type(self.method).__name__}.more_problems: draws within a declared budget; set "
                "train.samples_per_problem"
            )

    # The run: from the newest resume state to the last step.

    def run(self) -> None:
        """Train to the last step, or until ``stop`` is true after one, on rank 0.

        Raises:
            Stopped: a resume state of that step is on disk.
            Diverged: see there; the metrics up to that step are on disk.
        """
        self.begin()
        start = self._resume()
        path = self.run_dir / "metrics.jsonl"
        log = MetricsLog(path, resume_after=start) if self.ranks.first else None
        self.rollout.sampler.sync(self.model)
        try:
            self._steps(start, log)
        except Diverged as error:
            # What comes after the budget is looked at; the weights at the budget are unharmed.
            if self.config.budget_steps is None or self.best is None:
                raise
            self.diverged_past_budget = error
        if self.best is not None and self.best[1] < self.config.num_steps:
            self._restore_best()
        self.progress(self.config.num_steps, self.config.num_steps)

    def _steps(self, start: int, log: MetricsLog | None) -> None:
        for step in range(start + 1, self.config.num_steps + 1):
            self.progress(step - 1, self.config.num_steps)
            began = time.perf_counter()
            record = self.step(step) | self._validate(step)
            record["seconds"] = round(time.perf_counter() - began, 4)
            if log:
                log.write(record)
            self._stop_on_collapse(step, record)
            if step == self.config.budget_steps:
                self._keep(step, 0.0)
            self.after_step(step)
            last = step == self.config.num_steps
            stop = not last and self.stop is not None and self.ranks.from_first(self.stop())
            # The best weights are those that the resume state names, so a new best makes a new one.
            new_best = self.best is not None and self.best[1] == step
            if stop or (not last and (new_best or step % self.config.checkpoint_every == 0)):
                self._save(step, record)
            if stop:
                raise Stopped

    def begin(self) -> None:
        """Place the teacher and tell the method what is to come; the weights are the first ones,
        on a resumed run too."""
        self.begun = True
        config, tokenizer = self.rollout.config, self.rollout.tokenizer
        if self.teacher is not None:
            self.teacher.place(self.model, tokenizer)
            self.states.teacher = self.teacher.model if self.teacher.ema else None
        call_optional(self.method, "begin", self.model, self._scheduled(), config, tokenizer)

    def _scheduled(self) -> int:
        """Steps that schedules count: to the weights that the run ends with."""
        return min(self.config.budget_steps or self.config.num_steps, self.config.num_steps)

    def _save(self, step: int, record: Mapping[str, float | int]) -> None:
        extra = {
            "collapsed_steps": self.collapsed_steps,
            "nonfinite_updates": self.nonfinite_updates,
            "best": self.best,
            "spent": {f.name: record[f.name] for f in fields(Spent)},  # over all ranks
            "method": self.ranks.gather(saved_state(self.method)),
        }
        self.states.save(step, extra)

    def _resume(self) -> int:
        """Restore the newest resume state; the number of steps it has done, 0 without one."""
        step, extra = self.states.load() or (0, None)
        if extra is not None:
            self.collapsed_steps = extra["collapsed_steps"]
            self.nonfinite_updates = extra["nonfinite_updates"]
            self.best = tuple(extra["best"]) if extra["best"] else None
            if self.ranks.first:
                self.rollout.spent = Spent(**extra["spent"])
            self._restore_method(extra["method"])
        self.best_weights.forget_after(step)
        return step

    def _restore_method(self, states: list[Any]) -> None:
        if len(states) != self.ranks.size and any(state != states[0] for state in states):
            raise ValueError(
                f"{type(self.method).__name__}.state: differs between the {len(states)} ranks of "
                f"the resume state, and this run has {self.ranks.size}; continue with as many, or "
                "let the method keep only what it passed through rollout.gather"
            )
        restore_state(self.method, states[min(self.ranks.rank, len(states) - 1)])

    # A step: sample, update, record.

    def step(self, step: int) -> dict[str, float | int]:
        """Sample, update and record ``step`` (from 1); its metrics over all ranks."""
        if not self.begun:  # a step on its own
            self.begin()
        problems = self.step_problems(step)
        sums = Sums()
        self.model.eval()  # no dropout anywhere: the sampled and the scored policy are one
        with self.ranks.watched("training"):
            self._gather()
            trajectories, extra = self._collect(step, problems)
            self.rollout.sampler.release()
            for update in self.updates(problems, trajectories):
                self.update(step, update, sums)
            self.rollout.sampler.sync(self.model)
        record = {"step": step} | self.ranks.add_sums(self.rollout.sums).means() | sums.means()
        record |= {"learning_rate": self.learning_rate(step)} | extra
        return record | self.ranks.add(asdict(self.rollout.spent))

    def step_problems(self, step: int) -> list[Problem]:
        """The problems of ``step`` (from 1): consecutive slices of seeded permutations, one
        permutation an epoch; a remainder too short for a step is left out of its epoch."""
        size = self.config.problems_per_step
        epoch, slot = divmod(step - 1, len(self.problems) // size)
        return shuffled(self.problems, self.seed, "data", epoch)[slot * size : (slot + 1) * size]

    def _collect(
        self, step: int, problems: list[Problem]
    ) -> tuple[list[Trajectory], dict[str, int]]:
        """This rank's trajectories of the step, and the number of problems beyond ``problems`` that
        it took over all ranks, where the method asks for such."""
        before = self.rollout.spent.num_samples
        places = places_of(self.ranks, len(problems), self.config.updates_per_step)
        self.rollout.begin_step(step, {problems[i].id: i for i in places})
        own = [problems[i] for i in places]
        collected = check_collected(self.method, self.method.collect(own, self.rollout))
        drawn = self._drawn(before)
        if not hasattr(self.method, "more_problems"):
            return collected, {}
        inside = {p.id for p in problems}
        spare = [p for p in shuffled(self.problems, self.seed, "more", step) if p.id not in inside]
        taken = 0
        for number in itertools.count(1):
            missing = int(self.method.more_problems(collected, len(own)))
            missing = self.ranks.add({"missing": missing})["missing"]
            cost = max(1, -(-drawn // (len(problems) + taken)))  # samples that one more will take
            affordable = (self._sample_budget() - drawn) // cost
            more = spare[taken : taken + int(max(0, min(missing, affordable)))]
            if not more:
                return collected, {"extra_problems": taken}
            taken += len(more)
            share = self.ranks.share(len(more))
            self.rollout.begin_round(number, {more[i].id: i for i in share})
            if share:
                found = self.method.collect([more[i] for i in share], self.rollout)
                collected += check_collected(self.method, found)
            drawn = self._drawn(before)

    def _drawn(self, before: int) -> int:
        """Samples of the step so far over all ranks; ValueError above the declared budget."""
        drawn = int(self.ranks.add({"n": self.rollout.spent.num_samples - before})["n"])
        if drawn > self._sample_budget():
            raise ValueError(
                f"{type(self.method).__name__}.collect: drew {drawn} samples in a step; train."
                f"samples_per_problem={self.config.samples_per_problem} allows "
                f"{self._sample_budget()}; raise it, or draw fewer"
            )
        return drawn

    def _sample_budget(self) -> float:
        limit = self.config.samples_per_problem
        return math.inf if limit is None else limit * self.config.problems_per_step

    def updates(
        self, problems: Sequence[Problem], trajectories: list[Trajectory]
    ) -> list[list[Trajectory]]:
        """Trajectories of each consecutive update, split by problem; what the method wants apart
        follows in one of its own. All but the first update's are off-policy by then: where there
        are several, all know the log-probabilities of the policy before the first."""
        trajectories, apart = call_optional(
            self.method, "separate", trajectories, default=(trajectories, [])
        )
        apart = self._with_old_logprobs(apart, but=Role.DEMO)  # which imitation alone reads
        count = self.config.updates_per_step
        if count > 1:
            trajectories = self._with_old_logprobs(trajectories)
        due = self.ranks.add({"apart": len(apart)})["apart"] > 0
        return split_updates(problems, trajectories, count) + ([apart] if due else [])

    def _with_old_logprobs(
        self, trajectories: list[Trajectory], but: Role | None = None
    ) -> list[Trajectory]:
        """``trajectories``, each with its own ``old_logprobs`` or those of the present policy; a
        role ``but`` is left as it is."""
        unknown = [t for t in trajectories if t.old_logprobs is None and t.role is not but]
        values = own_logprobs(self.model, unknown, self.config.micro_batch_tokens)
        self.rollout.spent.scored_tokens += sum(len(t.completion_ids) for t in unknown)
        found = {id(t): t.with_(old_logprobs=v) for t, v in zip(unknown, values, strict=True)}
        return [found.get(id(t), t) for t in trajectories]

    def update(self, step: int, trajectories: list[Trajectory], sums: Sums) -> None:
        """One optimiser update; its metrics are added to ``sums``."""
        totals = self.ranks.add(self.method.totals(trajectories))
        self.optimizer.zero_grad(set_to_none=True)
        self._gather()
        loss, found = self._backward(trajectories, totals)
        sharding.reduce_gradients(self.model)
        if self.teacher is not None:
            sharding.free(self.teacher.model)
        norm = sharding.clip_gradients(self.optimizer, self.config.grad_clip)
        loss = self.ranks.add({"loss": loss})["loss"]
        found = self.ranks.add_sums(found)
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.nonfinite_updates = 0 if finite else self.nonfinite_updates + 1
        limit = math.inf if self.config.skip_above is None else self.config.skip_above
        sums.add("skipped_share", float(not finite or norm > limit))
        if not finite:
            self._stop_on_nonfinite(step, loss, norm)
            return
        if norm <= limit:
            self._move(step)
        sums.add_all({**found, "loss": (loss, 1.0), "grad_norm": (norm, 1.0)})

    def _backward(self, trajectories: list[Trajectory], totals: Totals) -> tuple[float, Sums]:
        """Loss and metric sums of this rank's share of an update, its gradients accumulated."""
        loss, sums = 0.0, Sums()
        for batch in micro_batches(trajectories, self.config.micro_batch_tokens):
            output = self.method.loss(self.model, batch, totals)
            if output.loss.requires_grad:
                output.loss.backward()
            loss += float(output.loss.detach())
            sums.add_all(output.sums)
        self.rollout.spent.scored_tokens += sum(len(t.completion_ids) for t in trajectories)
        if self.teacher is None:  # a second prompt is the policy's own pass as a teacher
            taught = (t for t in trajectories if t.second_prompt_ids)
            self.rollout.spent.scored_tokens += sum(len(t.completion_ids) for t in taught)
        else:
            self.rollout.spent.scored_tokens += self.teacher.scored_tokens
            self.teacher.scored_tokens = 0
        return loss, sums

    def _move(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()
        if self.teacher is not None:
            self.teacher.follow(self.model)
        call_optional(self.method, "after_update", self.model)

    def _gather(self) -> None:
        sharding.gather(self.model)
        if self.teacher is not None:
            sharding.gather(self.teacher.model)

    def learning_rate(self, step: int) -> float:
        """Rate of ``step`` (from 1): a linear rise over the warm-up share, then constant or down to
        0 at the step after the last, linearly or along half a cosine."""
        rise = math.ceil(self.config.warmup_share * self._scheduled())
        if step <= rise:
            return self.config.learning_rate * (step / rise)
        done = (step - rise) / (self.config.num_steps - rise + 1)
        shape = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": (1.0 + math.cos(math.pi * done)) / 2,
        }
        return self.config.learning_rate * shape[self.config.decay]

    # What ends a run early, and which weights it ends with.

    def _stop_on_nonfinite(self, step: int, loss: float, norm: float) -> None:
        if self.nonfinite_updates >= self.config.nonfinite_patience:
            raise Diverged(
                f"step {step}: loss {loss}, gradient norm {norm}: not finite; lower train."
                f"learning_rate (now {self.config.learning_rate}) and run again "
                f"({self.nonfinite_updates} updates in a row)",
                fatal=True,
                step=step,
            )

    def _stop_on_collapse(self, step: int, record: Mapping[str, float | int]) -> None:
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
                step=step,
            )

    def _validate(self, step: int) -> dict[str, float]:
        """The loss on the held-out problems after each epoch; the weights of the lowest are kept
        beside the resume states."""
        per_epoch = len(self.problems) // self.config.problems_per_step
        if not self.held_out or (step % per_epoch and step < self.config.num_steps):
            return {}
        loss = self.held_out_loss()
        if not math.isfinite(loss):
            why = f"step {step}: held-out loss {loss}: not finite"
            raise Diverged(why, fatal=True, step=step)
        if self.best is None or loss < self.best[0]:
            self._keep(step, loss)
        return {"held_out_loss": loss}

    def _keep(self, step: int, loss: float) -> None:
        """Let the run end with the present weights, unless later ones are kept."""
        self.best = loss, step
        if step < self.config.num_steps:  # those of the last step are still there at the end
            self.best_weights.save(step)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The method's loss on the held-out problems, over all ranks, under the present weights."""
        self._gather()
        own = [self.held_out[i] for i in self.ranks.share(len(self.held_out))]
        self.rollout.begin_round(0)  # these have no place in the step
        trajectories = self.method.collect(own, self.rollout) if own else []
        if any(t.role is not Role.DEMO for t in trajectories):
            raise ValueError(
                f"held_out_share={self.config.held_out_share}: serves methods that sample nothing; "
                f"{type(self.method).__name__} does"
            )
        totals = self.ranks.add(self.method.totals(trajectories))
        batches = micro_batches(trajectories, self.config.micro_batch_tokens)
        loss = sum(float(self.method.loss(self.model, b, totals).loss) for b in batches)
        sharding.free(self.model)
        return self.ranks.add({"loss": loss})["loss"]

    def _restore_best(self) -> None:
        found = self.best_weights.load()
        if found is None or found[0] != self.best[1]:
            raise ValueError(
                f"{self.best_weights.directory}: the weights of step {self.best[1]}, with "
                f"which the run ends, are gone or damaged; delete {self.run_dir} and run again"
            )
        self.rollout.sampler.sync(self.model)


def _split(
    problems: Sequence[Problem], held_out_share: float, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on in their order, and a random share that is held out."""
    count = round(held_out_share * len(problems))
    held_out = set(shuffled(range(len(problems)), seed, "held_out")[:count])
    kept = [p for i, p in enumerate(problems) if i not in held_out]
    return kept, [problems[i] for i in sorted(held_out)]
