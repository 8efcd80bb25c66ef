"""What a run of a published checkpoint takes: GPU memory, GPU hours and disk, by formula.

Nothing here was fitted to a measurement; every assumption is a constant of this file and is printed
with the estimate (``ASSUMPTIONS``). Bytes are bytes, hours are hours of one GPU.

Memory of one rank, N weights spread over W ranks (``sgpo.core.sharding`` says why):

- always: float32 master weights and two AdamW moments, 12 N / W;
- rollout: those, the last step's gradients 4 N / W, gathered bfloat16 weights 2 N, the engine;
- update: those, gathered bfloat16 weights and float32 gradients 6 N, activations, logits;
- optimiser step: those, gradients and its two temporaries, 12 N / W.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.config import Cell, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.data.suites import SUITES
from benchmarks.profiles import profile_module
from sgpo.core.models import context_length, read_config, rope_settings
from sgpo.mini.sets import TEST_SETS

GIB, GB = 2**30, 1e9
_SETS = {b.key: b for b in TEST_SETS} | SUITES


class Gpu(NamedTuple):
    """``memory``: bytes that a process can use. ``flops``: dense bfloat16 peak a second."""

    name: str
    memory: float
    flops: float


REFERENCE = Gpu("H100 80 GB", 79 * GIB, 989e12)
OVERHEAD = 2.5 * GIB  # CUDA context, NCCL buffers, fragmentation
ENGINE_ASLEEP = 1.5 * GIB  # what vLLM keeps while it sleeps
ENGINE_WORKSPACE = 3 * GIB  # activations and CUDA graphs inside vLLM's own share
HEAD_LOGITS = 2**27  # logits that exist at once (sgpo.core.chunked_head.MAX_LOGITS)
HEAD_COPIES = 8  # float32 copies of a chunk's logits alive in the KL's backward pass
TRAIN_UTILISATION = 0.4  # of the GPU's peak in passes of training and scoring
SAMPLE_UTILISATION = 0.05  # of the peak while sampling
MEAN_SHARE = 0.4  # mean completion or trace over the longest allowed
MEAN_PROMPT = 300  # tokens
PROMPT_ROOM = 2048  # longest prompt with a strategy, tokens
RESUME_STATES = 3  # two are kept, a third exists while it is written
SAMPLE_BYTES = 1.5  # of a compressed sample, a token
GENERATE_BATCH = 256  # sequences at once of the transformers engine (TransformersSampler)

ASSUMPTIONS = (
    f"GPU: {REFERENCE.name}, {REFERENCE.memory / GIB:.0f} GiB usable, "
    f"{REFERENCE.flops / 1e12:.0f} TFLOP/s in bfloat16",
    f"training and scoring at {TRAIN_UTILISATION:.0%} of that, sampling at "
    f"{SAMPLE_UTILISATION:.0%}; completions and traces are {MEAN_SHARE:.0%} of the longest allowed "
    "in the mean",
    "arithmetic of a token: 2 FLOP a weight forward, 4 backward, 2 more where activations are "
    "recomputed, and attention over half the sequence",
    "memory of a rank: float32 weights and AdamW moments in shards (12 bytes a weight / ranks); in "
    "an update bfloat16 weights and float32 gradients whole (6 bytes a weight), one layer's "
    "activations and the inputs of all, "
    f"{HEAD_COPIES} x {HEAD_LOGITS * 4 / GIB:g} GiB of logits, the head's gradient; in a rollout "
    "bfloat16 weights and vLLM's share",
    f"disk of a run: {RESUME_STATES} resume states of 12 bytes a weight while it trains, then "
    f"weights in float32 and {SAMPLE_BYTES} bytes a sampled token",
)


class Memory(NamedTuple):
    """Bytes on one GPU by phase, and the longest sequences that vLLM's cache holds at once."""

    rollout: float
    update: float
    optimizer: float
    full_sequences: float | None

    @property
    def peak(self) -> float:
        return max(self.rollout, self.update, self.optimizer)


def memory(shape: Shape, config: RunConfig, ranks: int, gpu: Gpu = REFERENCE) -> Memory:
    """The estimate for one of ``ranks`` GPUs of ``config``."""
    n, work = shape.num_parameters, work_bytes(config)
    awake, asleep, sequences = _engine(shape, config, gpu)
    if config.train is None:
        return Memory(n * work + awake + OVERHEAD, 0.0, 0.0, sequences)
    tokens = max(config.train.micro_batch_tokens, config.rollout.max_tokens + PROMPT_ROOM)
    kept = not config.train.activation_checkpointing
    passes = _activations(shape, tokens, work, kept=kept) + _head(shape)
    always = 12 * n / ranks + OVERHEAD
    gathered = n * work if ranks > 1 or config.precision != "float32" else 0.0
    return Memory(
        rollout=always + 4 * n / ranks + gathered + awake,
        update=always + gathered + 4 * n + passes + asleep,
        optimizer=always + 12 * n / ranks + asleep,
        full_sequences=sequences,
    )


def work_bytes(config: RunConfig) -> int:
    """Bytes of a number in forward and backward passes."""
    return 4 if config.precision == "float32" else 2


def _engine(shape: Shape, config: RunConfig, gpu: Gpu) -> tuple[float, float, float | None]:
    """Bytes of the sampler awake and released, and longest sequences in vLLM's cache."""
    n, work, vllm = shape.num_parameters, work_bytes(config), config.vllm
    longest = vllm.max_model_len or shape.context
    if config.sampler == "vllm":
        if vllm.server is not None:  # on GPUs of its own
            return 0.0, 0.0, None
        share = vllm.gpu_memory_utilization * gpu.memory
        cache = share - n * work - ENGINE_WORKSPACE
        sequences = max(0.0, cache) / (shape.cache_numbers * work * longest)
        return share, ENGINE_ASLEEP if vllm.sleep else share, sequences
    completion = max(config.evaluation.max_tokens, config.rollout.max_tokens if config.train else 0)
    longest = min(longest, completion + PROMPT_ROOM)
    cache = GENERATE_BATCH * longest * shape.cache_numbers * work
    replica = n * work if config.train else 0.0
    return replica + cache, replica, None


def _activations(shape: Shape, tokens: int, work: int, *, kept: bool) -> float:
    """Bytes that the backward pass of one micro-batch finds: what all layers save, or their inputs
    alone, beside the gradients of one layer."""
    h, inner = shape.hidden_size, shape.intermediate_size
    # A layer saves norms (two in float32), projections, rotations, attention; gate, its
    # activation, up and their product. In its backward pass gradients stand beside them.
    saved = 13 * h + 4 * inner if kept else h
    return tokens * work * (shape.num_layers * saved + 17 * h + 8 * inner)


def _head(shape: Shape) -> float:
    """Bytes of a chunk's logits and of what their backward pass makes of them: the head's gradient
    in float32, a chunk's part of it and the rounded sum in bfloat16."""
    return HEAD_LOGITS * 4 * HEAD_COPIES + 8 * shape.vocab_size * shape.hidden_size


def keeps_activations(shape: Shape, tokens: int, work: int, ranks: int, free: float) -> bool:
    """Whether ``free`` bytes of a GPU that holds nothing of the training yet take an update that
    recomputes nothing, a tenth to spare; ``tokens``: of a micro-batch, ``work``: bytes a number."""
    weights = (12 / ranks + work + 4) * shape.num_parameters
    passes = _activations(shape, tokens, work, kept=True) + _head(shape)
    return weights + passes + OVERHEAD <= 0.9 * free


def kept_tokens(
    shape: Shape, tokens: int, longest: int, work: int, ranks: int, free: float
) -> int | None:
    """The most of ``tokens``, half of it, a quarter and so on in a micro-batch that
    ``keeps_activations`` allows; None where not even the ``longest`` sequence, which is a
    micro-batch of its own where it has more, fits."""
    while not keeps_activations(shape, max(tokens, longest), work, ranks, free):
        if tokens <= longest:
            return None
        tokens //= 2
    return tokens


def sequences(settings: Any, updates_per_step: int) -> tuple[int, int, int]:
    """Sequences a problem: drawn, trained on, and only scored; the most that a method can need."""
    own = getattr(settings, "num_samples", getattr(settings, "num_autonomous", 0))
    guided = getattr(settings, "num_guided", 0)
    # An expert's trace (SFT, LUFFY), or what is distilled: one target (Eq. 4) or all guided ones.
    extra = 1 if not own or hasattr(settings, "shaping") else 0
    extra += min(guided, 1) if getattr(settings, "select_target", True) else guided
    again = own if updates_per_step > 1 else 0  # under the weights that sampled them
    # Guided ones under the unguided prompt (Eq. 4), and targets under the guided one (Eq. 2).
    return own + guided, own + extra, again + (guided + extra if guided else 0)


def _evaluated(config: RunConfig) -> float:
    """Tokens sampled at evaluation; a user's own problems, usually few, are not counted."""
    limits, samples = config.evaluation, 0
    for suite in (_SETS[key] for key in limits.suites if key in _SETS):
        problems = min(suite.num_problems, limits.problem_limit or suite.num_problems)
        samples += problems * min(suite.k, limits.sample_limit or suite.k)
    return samples * MEAN_SHARE * limits.max_tokens


def forward_flops(
    shape: Shape, length: float, scored: float | None = None, *, attention_share: float = 0.5
) -> float:
    """FLOP of a forward pass over one sequence: two a weight of the matrices that a token meets,
    4 x heads x head size a pair of positions and layer, and the head's 2 x vocabulary x hidden
    size. Biases, norms and softmax are not counted.

    Args:
        length: tokens of the sequence.
        scored: tokens that the head is applied to; None for all.
        attention_share: of all pairs of positions, those that count; half are masked.
    """
    h, kv = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    weights = shape.num_layers * (2 * h * h + 2 * h * kv + 3 * h * shape.intermediate_size)
    pairs = shape.num_layers * shape.num_heads * shape.head_dim * attention_share * length**2
    head = shape.vocab_size * h * (length if scored is None else scored)
    return 2 * weights * length + 4 * pairs + 2 * head


def gpu_hours(shape: Shape, config: RunConfig, gpu: Gpu = REFERENCE) -> float:
    """Hours of one GPU for training and evaluation, if all lengths are the assumed means."""

    def token(length: float) -> float:
        """FLOP of a forward pass a token."""
        return forward_flops(shape, length) / length

    seconds = _evaluated(config) * token(MEAN_SHARE * config.evaluation.max_tokens)
    seconds /= SAMPLE_UTILISATION
    if config.train is not None:
        length = MEAN_SHARE * config.rollout.max_tokens
        drawn, trained, scored = sequences(config.settings, config.train.updates_per_step)
        passes = 3 + config.train.activation_checkpointing
        work = (passes * trained + scored) * (length + MEAN_PROMPT) / TRAIN_UTILISATION
        work += drawn * length / SAMPLE_UTILISATION
        problems = config.train.num_steps * config.train.problems_per_step
        seconds += problems * work * token(length)
    return seconds / gpu.flops / 3600


class Disk(NamedTuple):
    """Bytes: of the checkpoint in the hub's cache, while the run trains, and kept afterwards."""

    download: float
    training: float
    kept: float


def disk(shape: Shape, config: RunConfig) -> Disk:
    """The estimate for one run. Runs one after another need one run's ``training`` at a time."""
    n, samples = shape.num_parameters, SAMPLE_BYTES * _evaluated(config)
    if config.train is None:
        return Disk(2 * n, 0.0, samples)
    return Disk(2 * n, RESUME_STATES * 12 * n, samples + 4 * n)


def shape_of(config: RunConfig) -> Shape:
    """The shape of a run's checkpoint, without a download.

    Raises:
        ValueError: another checkpoint of the hub than the profile's own; its shape is not known.
    """
    directory = Path(config.checkpoint).expanduser()
    if directory.is_dir():
        content = read_config(directory)
        theta = rope_settings(content)["rope_theta"]
        return Shape.from_config(content, context_length(content), theta)
    known = {c.name: c.shape for c in CHECKPOINTS.values()}
    if config.checkpoint not in known:
        raise ValueError(
            f"checkpoint {config.checkpoint!r}: no such directory, and of the hub's models only "
            f"{', '.join(known)} are known before a download; download it and name its directory"
        )
    return known[config.checkpoint]


def planned_ranks(config: RunConfig) -> int:
    """GPUs that the profile runs a cell of this model on."""
    module = profile_module(config.profile)
    # A mini profile with a checkpoint put in runs on one.
    nodes = getattr(module, "NODES", {}).get(config.model, 1)
    return nodes * getattr(module, "GPUS_PER_NODE", 1)


def print_plan(cells: Sequence[Cell], left: Sequence[Cell]) -> None:
    """Print one line a cell, the totals of those ``left`` to run, and the assumptions."""
    width = max(len(cell.run_id) for cell in cells)
    print(f"{'':{width}}  {'':8} {'GPUs':>4} {'GiB each':>8} {'GPU hours':>9} {'disk GB':>8}")
    total = wall = 0.0
    for cell in cells:
        config, shape = cell.config, shape_of(cell.config)
        ranks, space, hours = planned_ranks(config), disk(shape, config), gpu_hours(shape, config)
        print(
            f"{cell.run_id:{width}}  {'to run' if cell in left else 'finished':8} {ranks:4} "
            f"{memory(shape, config, ranks).peak / GIB:8.1f} {hours:9.2f} "
            f"{(space.training + space.kept) / GB:8.1f}"
        )
        if cell in left:
            total, wall = total + hours, wall + hours / ranks
    space = needed_disk(left)
    print(
        f"{len(left)} of {len(cells)} cells to run: about {total:,.1f} GPU hours "
        f"({REFERENCE.name}), {wall:,.1f} hours one cell after another; disk: "
        f"{space.download / GB:.0f} GB downloaded, {space.kept / GB:.0f} GB kept, "
        f"{space.training / GB:.0f} GB more while a cell trains\n"
        "Assumptions (not fitted to measurements):"
    )
    for line in ASSUMPTIONS:
        print(f"- {line}")


def needed_disk(left: Sequence[Cell]) -> Disk:
    """What the cells take together, one after another."""
    parts = [(cell.config.checkpoint, disk(shape_of(cell.config), cell.config)) for cell in left]
    downloads = {c: d.download for c, d in parts if not Path(c).expanduser().is_dir()}
    training = max((d.training for _, d in parts), default=0.0)
    return Disk(sum(downloads.values()), training, sum(d.kept for _, d in parts))


def disk_left(left: Sequence[Cell], results: Path) -> Disk:
    """``needed_disk`` less what earlier attempts of the cells have left in their directories: a
    run that is continued fills what it has, and one with its last weights trains no more."""
    runs = {cell: results / "runs" / cell.run_id for cell in left}
    to_train = [cell for cell, run in runs.items() if not (run / "model").is_dir()]
    needed, states = needed_disk(left), needed_disk(to_train).training
    written = sum(_size(run / "checkpoints") for run in runs.values())
    kept = sum(_size(run / name) for run in runs.values() for name in ("model", "samples"))
    return Disk(needed.download, max(0.0, states - written), max(0.0, needed.kept - kept))


def _size(directory: Path) -> int:
    """Bytes of all files below ``directory``; one that another process removes meanwhile has
    none."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total
