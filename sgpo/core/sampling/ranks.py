"""Sampling in a run of several ranks: whole weights beside a policy in shards, and one sampler out
of those of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from sgpo.core.distributed import Ranks
from sgpo.core.sampling.sampler import Groups, Progress, Prompts, Sampler, SamplingParams
from sgpo.core.sharding import full_state

T = TypeVar("T")


class ReplicaSampler(Sampler):
    """A ``Sampler`` that works on whole weights of its own, for a policy that lives in shards.

    In another precision than the float32 master weights its numbers are not the trainer's, and
    ``sampler`` is told to report them.
    """

    def __init__(self, replica: PreTrainedModel, sampler: Sampler) -> None:
        self.replica, self.sampler = replica, sampler
        self.sample, self.release = sampler.sample, sampler.release
        sampler.own_weights = replica.dtype != torch.float32

    @torch.no_grad()
    def sync(self, model: PreTrainedModel) -> None:
        """Copy the gathered weights of ``model`` into the replica; all ranks call it together."""
        own = self.replica.state_dict()
        for name, tensor in full_state(model):
            own[name].copy_(tensor)
        self.sampler.sync(self.replica)


class SharedSampler:
    """Splits calls of rank 0 over all ranks; for evaluation, where one process leads."""

    def __init__(self, sampler: Sampler, ranks: Ranks) -> None:
        self.sampler, self.ranks = sampler, ranks

    def lead(self, work: Callable[[], T]) -> T | None:
        """What ``work``, which samples from here as often as it likes, returns on rank 0; the other
        ranks draw their shares until it is done and get None."""
        if self.ranks.first:
            result = work()
            if self.ranks.size > 1:
                self.ranks.from_first(None)
            return result
        while (request := self.ranks.from_first(None)) is not None:
            self._share(*request)
        return None

    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """See ``Sampler.sample``. Progress counts this rank's samples as they come and the other
        ranks' at the end."""
        assert self.ranks.first
        if self.ranks.size == 1:
            return self.sampler.sample(prompts, n, params, progress)
        prompts = [tuple(prompt) for prompt in prompts]
        self.ranks.from_first((prompts, n, params))
        groups = self._share(prompts, n, params, progress)
        if progress:
            progress((len(prompts) - len(self.ranks.share(len(prompts)))) * n)
        return groups

    def _share(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        own = self.ranks.share(len(prompts))
        placed = replace(params, places=tuple(own))
        groups = self.sampler.sample([prompts[i] for i in own], n, placed, progress)
        return [group for part in self.ranks.gather(groups) for group in part]
