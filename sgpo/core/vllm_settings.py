"""How a vLLM engine is set up, without importing vLLM or torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sgpo.core.config import operational, require_positive, to_dict, without_operational

# Allowed mean |difference| in nats between the engine's and the trainer's log-probabilities of
# the probe's tokens. Measured on random models: 1e-5 in float32, 6e-3 in bfloat16; stale or
# half-loaded weights give 0.5 and more.
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}

EXIT_HUNG = 75  # exit code of a process whose engine hangs in native code

EngineDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class VLLMSettings:
    """Where the engine runs and what it may use. All but ``dtype`` and ``max_model_len`` may change
    between two attempts at one run: its address does not hold them.

    Args:
        dtype: of the engine's weights and cache; ``auto``: bfloat16 on a GPU, float32 on a CPU,
            and for a server the dtype it was started with, taken to be bfloat16 by the probe.
        max_model_len: longest prompt with completion, in tokens; None for the model's own limit.
        max_num_seqs: sequences decoded at once.
        gpu_memory_utilization: share of a GPU's memory that the engine may fill. The trainer
            needs the rest; with ``sleep`` it gets nearly all of it between rollouts.
        sleep: drop the engine's weights and cache from GPU memory between rollouts (vLLM's
            level 2). Without effect on a CPU and on a server.
        enforce_eager: no compilation and no CUDA graphs; always so on a CPU.
        stall_seconds: give up when no completion finishes, or no weight load ends, within this
            time. It must exceed the time of the longest completion.
        probe_tolerance: see ``PROBE_TOLERANCE``; None for the value of the dtype.
        server: base URL of a running server, e.g. ``http://localhost:8000``; None runs the
            engine in this process.
        sync_dir: with ``server``: a directory that both sides see, through which weights travel;
            None for a temporary one in shared memory, which serves one machine.
    """

    dtype: EngineDtype = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = operational(256)
    gpu_memory_utilization: float = operational(0.35)
    sleep: bool = operational(True)
    enforce_eager: bool = operational(False)
    stall_seconds: float = operational(1800.0)
    probe_tolerance: float | None = operational(None)
    server: str | None = operational(None)
    sync_dir: str | None = operational(None)

    def __post_init__(self) -> None:
        require_positive(self, "max_num_seqs gpu_memory_utilization stall_seconds")
        if self.max_model_len is not None:
            require_positive(self, "max_model_len")
        if self.probe_tolerance is not None:
            require_positive(self, "probe_tolerance")
        if self.gpu_memory_utilization > 1:
            raise ValueError(
                f"gpu_memory_utilization={self.gpu_memory_utilization}: must be at most 1"
            )
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server={self.server!r}: must be a URL such as http://localhost:8000")


def addressed_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """The part of ``to_dict`` of VLLMSettings that changes results; empty at its defaults, as
    ``to_dict`` of a run's config leaves settings out that are all at theirs."""
    kept = without_operational(stored, VLLMSettings)
    plain = without_operational(to_dict(VLLMSettings()), VLLMSettings)
    return {} if kept == plain else kept
