"""Two ranks on this machine for tests: forked from one warm server, joined over gloo."""

from __future__ import annotations

import copy
import os
import socket
import sys
import time
import traceback
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny import build_model, build_trainer

from sgpo.core import distributed as ranks
from sgpo.core import sharding
from sgpo.core.sampling.ranks import ReplicaSampler
from sgpo.core.trainer import Trainer

CPU = torch.device("cpu")
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_processes"])  # a rank is forked with all of this imported


def start_server() -> None:
    """The process that forks ranks; Python 3.11 gives it no other path than the environment's."""
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()


def launch(
    function: Any,
    *arguments: Any,
    size: int = 2,
    wait: float = 400.0,
    timeout: float = 200.0,
    awaited: int | None = None,
) -> list[int]:
    """Run ``function(ranks, *arguments)`` on ``size`` ranks; their exit codes in order, of the
    first ``awaited`` if not of all.

    What a rank raises ends up on its standard error, which is a file ``rank-N.txt`` in the
    directory that is the first argument.
    """
    start_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        CONTEXT.Process(target=_body, args=(function, rank, size, port, timeout, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + wait
    for process in processes[:awaited]:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [p.exitcode if p.exitcode is not None else -999 for p in processes]
    for process in processes:
        process.kill()
    return codes


def _body(function, rank, size, port, timeout, arguments):
    torch.set_num_threads(1)
    with (Path(arguments[0]) / f"rank-{rank}.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        try:
            function(ranks.join(CPU, timeout), *arguments)
            ranks.leave()
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def sharded_trainer(
    method: Any, run_dir: Path, own: ranks.Ranks, *, precision: str = "float32", **changes: Any
) -> Trainer:
    """The counterpart of ``tiny.build_trainer`` on several ranks."""
    model = build_model()
    replica = copy.deepcopy(model)
    if changes.get("activation_checkpointing"):
        sharding.recompute_activations(model)
    sharding.shard(model, CPU, precision)
    trainer = build_trainer(method, run_dir, model=model, ranks=own, **changes)
    trainer.rollout.sampler.sync(replica)
    trainer.rollout.sampler = ReplicaSampler(replica, trainer.rollout.sampler)
    return trainer
