"""One sampler out of those of all ranks: rank 0 asks, everyone draws its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sgpo.core.distributed import Ranks
from sgpo.core.sampling.sampler import Sampler, SamplingParams
from sgpo.core.types import Completion


class SharedSampler:
    """Splits calls of rank 0 over all ranks; for evaluation, where one process leads.

    Rank 0 calls ``sample`` as often as it likes and then ``close``; every other rank calls
    ``serve`` once, which returns when rank 0 closes.
    """

    def __init__(self, sampler: Sampler, ranks: Ranks) -> None:
        self.sampler, self.ranks = sampler, ranks

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See ``Sampler.sample``. Progress counts this rank's samples as they come and the other
        ranks' at the end."""
        assert self.ranks.first
        prompts = [tuple(prompt) for prompt in prompts]
        if self.ranks.size > 1:
            self.ranks.from_first((prompts, n, params))
        groups = self._share(prompts, n, params, progress)
        if progress and self.ranks.size > 1:
            progress((len(prompts) - len(self.ranks.share(len(prompts)))) * n)
        return groups

    def serve(self) -> None:
        """Draw this rank's share of every call of rank 0 until it closes."""
        while (request := self.ranks.from_first(None)) is not None:
            self._share(*request, None)

    def close(self) -> None:
        """Let the other ranks go."""
        if self.ranks.size > 1:
            self.ranks.from_first(None)

    def _share(
        self,
        prompts: list[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        progress: Callable[[int], None] | None,
    ) -> list[list[Completion]]:
        if self.ranks.size == 1:
            return self.sampler.sample(prompts, n, params, progress)
        own = self.ranks.share(len(prompts))
        params = replace(params, places=tuple(own))
        groups = self.sampler.sample([prompts[i] for i in own], n, params, progress)
        return [group for part in self.ranks.gather(groups) for group in part]
