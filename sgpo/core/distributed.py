"""Where a run computes: its device, its processes, who takes which share, and sums over all.

Started by ``torchrun``, a run has several ranks; started plainly, one. Every function here is a
no-op on one rank, so that there is one training loop and not two.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist

from sgpo.core.types import Sums

DEFAULT_TIMEOUT = 3600.0  # seconds a rank waits for the slowest one: a long rollout is normal


class RankLost(ConnectionError):
    """Another rank ended or did not answer in time; the message says what to do."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ``size`` of its run; ``rank`` counts from 0."""

    rank: int = 0
    size: int = 1
    timeout: float = DEFAULT_TIMEOUT

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Consecutive indices out of ``range(count)`` that this rank takes; shares differ by at
        most one."""
        size, extra = divmod(count, self.size)
        start = self.rank * size + min(self.rank, extra)
        return range(start, start + size + (self.rank < extra))

    def add(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over ranks, name by name, in the order of the ranks; a missing name counts as 0."""
        if self.size == 1:
            return dict(values)
        total: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def add_sums(self, sums: Sums) -> Sums:
        """Numerators and denominators over ranks."""
        total = Sums()
        for part in self.gather(dict(sums)):
            total.add_all(part)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value`` (plain Python data), by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.watched("exchanging results"):
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's ``value`` (plain Python data) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with self.watched("waiting for rank 0"):
            dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def one_after_first(self) -> Iterator[None]:
        """Rank 0 runs the block, then all others do: what it leaves on disk is there for them."""
        if not self.first:
            reason = self.from_first(None)
            if reason:
                raise RankLost(f"rank {self.rank} stops because rank 0 failed: {reason}")
            yield
            return
        try:
            yield
        except Exception as error:
            self.from_first(f"{type(error).__name__}: {error}")
            raise
        self.from_first(None)

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Turns the failure of a collective inside the block into ``RankLost``; other errors of
        the block pass."""
        try:
            yield
        except RuntimeError as error:
            # Gloo has no error class of its own; its messages name its source files.
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RankLost(
                f"rank {self.rank} of {self.size} failed while {what}: another rank ended, or did "
                f"not answer within {self.timeout:g} s (--rank-timeout); run the same command "
                f"again to continue from the last resume state ({reason})"
            ) from error


def select_device(name: Literal["cpu", "cuda", "auto"]) -> torch.device:
    """The device of this process: ``auto`` is a GPU where there is one. Of several, a rank started
    by torchrun gets that of its local rank; ValueError where that is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "device='cuda': torch sees no GPU here; use --set device=cpu, or install a CUDA build "
            "of torch on a machine with one (sgpo doctor)"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {index}: only {torch.cuda.device_count()} GPUs are visible; lower "
            "torchrun --nproc-per-node, or check CUDA_VISIBLE_DEVICES"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> dict[str, Any]:
    """What a run's environment.json says about ``device``, as JSON types."""
    if device.type != "cuda":
        return {"device": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": str(device),
        "device_name": properties.name,
        "device_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def launched_by_torchrun() -> bool:
    """Whether ``torchrun`` (or anything that sets its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: torch.device, timeout: float = DEFAULT_TIMEOUT) -> Ranks:
    """The ranks of this run; joins their process group (gloo, or NCCL on GPUs) when ``torchrun``
    started them. Waiting for another rank longer than ``timeout`` seconds is an error."""
    if not launched_by_torchrun():
        return Ranks(timeout=timeout)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=datetime.timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
    return Ranks(dist.get_rank(), dist.get_world_size(), timeout)


def leave() -> None:
    """Close the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def places_of(ranks: Ranks, count: int, updates: int) -> list[int]:
    """Which of a step's ``count`` problems this rank samples: its share of each of the step's
    ``updates`` consecutive updates, so that every update has its problems on all ranks."""
    size = count // updates
    return [u * size + i for u in range(updates) for i in ranks.share(size)]


def check_share(ranks: Ranks, problems: int, updates: int) -> None:
    """ValueError when an update has fewer problems than there are ranks."""
    if problems // updates < ranks.size:
        raise ValueError(
            f"problems_per_step={problems} with updates_per_step={updates}: fewer than one problem "
            f"for each of {ranks.size} ranks; start fewer ranks (torchrun --nproc-per-node)"
        )
