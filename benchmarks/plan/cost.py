"""What a run of a published checkpoint takes: GPU memory, GPU hours and disk, by formula.

Nothing here was fitted to a measurement: ``FORMULAS`` says what is assumed and is printed with
every estimate. Sizes are bytes, hours those of one GPU. ``sgpo.core.sharding`` says why memory is
what it is.
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
GPU, GPU_MEMORY, GPU_FLOPS = "H100 80 GB", 79 * GIB, 989e12  # usable bytes; bfloat16 peak a second
OVERHEAD = 2.5 * GIB  # CUDA context, NCCL buffers, fragmentation
ENGINE_ASLEEP = 1.5 * GIB  # what vLLM keeps while it sleeps
ENGINE_WORKSPACE = 3 * GIB  # activations and CUDA graphs inside vLLM's own share
HEAD_LOGITS = 2**27  # logits that exist at once (sgpo.core.chunked_head.MAX_LOGITS)
HEAD_COPIES = 8  # float32 copies of a chunk's logits: an upper bound, a KL's are shorter
TRAIN_UTILISATION, SAMPLE_UTILISATION = 0.4, 0.05  # of the GPU's peak
MEAN_SHARE = 0.4  # mean completion or trace over the longest allowed
MEAN_PROMPT = 300  # tokens
PROMPT_ROOM = 2048  # longest prompt with a strategy, tokens
RESUME_STATES = 3  # two are kept, a third exists while it is written
SAMPLE_BYTES = 1.5  # of a compressed sample, a token
GENERATE_BATCH = 256  # sequences at once of the transformers engine (TransformersSampler)

FORMULAS = f"""\
Assumptions for N weights on W GPUs ({GPU}, {GPU_MEMORY / GIB:.0f} GiB usable), not fitted to \
measurements:
- memory, always: 12 N / W bytes of float32 weights and AdamW moments, {OVERHEAD / GIB:g} GiB beside
- memory in a rollout: 4 N / W of gradients, 2 N of bfloat16 weights, vLLM's share of the GPU
- memory in an update: 6 N of bfloat16 weights and float32 gradients, one layer's activations and \
the inputs of all, {HEAD_COPIES} x {HEAD_LOGITS * 4 / GIB:g} GiB of logits, the head's gradient
- memory in an optimiser step: 12 N / W of gradients and what it makes of them
- time: 2 FLOP a weight and token forward, 4 backward, 2 more where activations are recomputed, \
and attention over half the sequence; training and scoring at {TRAIN_UTILISATION:.0%} of \
{GPU_FLOPS / 1e12:.0f} TFLOP/s, sampling at {SAMPLE_UTILISATION:.0%}; completions and traces are \
{MEAN_SHARE:.0%} of the longest allowed in the mean
- disk: 2 N downloaded; {RESUME_STATES} resume states of 12 N while a run trains, then 4 N of \
weights and {SAMPLE_BYTES} bytes a sampled token"""


class Memory(NamedTuple):
    """Bytes on one GPU by phase, and the longest sequences that vLLM's cache holds at once."""

    rollout: float
    update: float
    optimizer: float
    full_sequences: float | None

    @property
    def peak(self) -> float:
        return max(self.rollout, self.update, self.optimizer)


def memory(shape: Shape, config: RunConfig, ranks: int, gpu: float = GPU_MEMORY) -> Memory:
    """The estimate for one of ``ranks`` GPUs of ``gpu`` bytes."""
    n, work = shape.num_parameters, work_bytes(config)
    awake, asleep, sequences = _engine(shape, config, gpu)
    if config.train is None:
        return Memory(n * work + awake + OVERHEAD, 0.0, 0.0, sequences)
    tokens = max(config.train.micro_batch_tokens, config.rollout.max_tokens + PROMPT_ROOM)
    kept = not config.train.activation_checkpointing
    always = 12 * n / ranks + OVERHEAD
    gathered = n * work if ranks > 1 or config.precision != "float32" else 0.0
    return Memory(
        rollout=always + 4 * n / ranks + gathered + awake,
        update=always + gathered + 4 * n + _passes(shape, tokens, work, kept=kept) + asleep,
        optimizer=always + 12 * n / ranks + asleep,
        full_sequences=sequences,
    )


def work_bytes(config: RunConfig) -> int:
    """Bytes of a number in forward and backward passes."""
    return 4 if config.precision == "float32" else 2


def _engine(shape: Shape, config: RunConfig, gpu: float) -> tuple[float, float, float | None]:
    """Bytes of the sampler awake and released, and longest sequences in vLLM's cache."""
    weights, work, vllm = shape.num_parameters * work_bytes(config), work_bytes(config), config.vllm
    longest = vllm.max_model_len or shape.context
    if config.sampler == "vllm":
        if vllm.server is not None:  # on GPUs of its own
            return 0.0, 0.0, None
        share = vllm.gpu_memory_utilization * gpu
        cache = max(0.0, share - weights - ENGINE_WORKSPACE)
        sequences = cache / (shape.cache_numbers * work * longest)
        return share, ENGINE_ASLEEP if vllm.sleep else share, sequences
    completion = max(config.evaluation.max_tokens, config.rollout.max_tokens if config.train else 0)
    longest = min(longest, completion + PROMPT_ROOM)
    cache = GENERATE_BATCH * longest * shape.cache_numbers * work
    replica = weights if config.train else 0.0
    return replica + cache, replica, None


def _passes(shape: Shape, tokens: int, work: int, *, kept: bool) -> float:
    """Bytes that the backward pass of one micro-batch finds and makes. Of every layer: all that it
    saves, or its input alone, beside the gradients of one layer. Of the head: a chunk's logits and
    their copies, its gradient in float32, a chunk's part of it and the rounded sum in bfloat16."""
    h, inner = shape.hidden_size, shape.intermediate_size
    # A layer saves norms (two in float32), projections, rotations, attention; gate, its
    # activation, up and their product. In its backward pass gradients stand beside them.
    saved = 13 * h + 4 * inner if kept else h
    layers = tokens * work * (shape.num_layers * saved + 17 * h + 8 * inner)
    return layers + HEAD_LOGITS * 4 * HEAD_COPIES + 8 * shape.vocab_size * h


def kept_tokens(
    shape: Shape, tokens: int, longest: int, work: int, ranks: int, free: float
) -> int | None:
    """The most of ``tokens``, half of it, a quarter and so on in a micro-batch with which an update
    that recomputes nothing fits ``free`` bytes of a GPU that holds nothing of the training yet, a
    tenth to spare; None where not even the ``longest`` sequence fits, which is a micro-batch of its
    own where it has more. ``work``: bytes a number."""
    weights = (12 / ranks + work + 4) * shape.num_parameters + OVERHEAD
    while weights + _passes(shape, max(tokens, longest), work, kept=True) > 0.9 * free:
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
    sets = {s.key: s for s in (*TEST_SETS, *SUITES.values())}
    for suite in (sets[key] for key in limits.suites if key in sets):
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


def gpu_hours(shape: Shape, config: RunConfig) -> float:
    """Hours of one GPU for training and evaluation, if all lengths are the assumed means."""

    def token(length: float) -> float:
        """FLOP of a forward pass a token."""
        return forward_flops(shape, length) / length

    work = _evaluated(config) * token(MEAN_SHARE * config.evaluation.max_tokens)
    work /= SAMPLE_UTILISATION
    if config.train is not None:
        length = MEAN_SHARE * config.rollout.max_tokens
        drawn, trained, scored = sequences(config.settings, config.train.updates_per_step)
        passes = 3 + config.train.activation_checkpointing
        tokens = (passes * trained + scored) * (length + MEAN_PROMPT) / TRAIN_UTILISATION
        tokens += drawn * length / SAMPLE_UTILISATION
        problems = config.train.num_steps * config.train.problems_per_step
        work += problems * tokens * token(length)
    return work / GPU_FLOPS / 3600


class Disk(NamedTuple):
    """Bytes: of checkpoints in the hub's cache, while a run trains, and kept afterwards."""

    download: float
    training: float
    kept: float


def disk(cells: Sequence[Cell], results: Path | None = None) -> Disk:
    """What ``cells`` take together, one after another; with ``results`` less what earlier attempts
    have left there: one that has its last weights trains no more."""
    downloads, training, written, kept = {}, 0.0, 0, 0.0
    for cell in cells:
        config, run = cell.config, (results / "runs" / cell.run_id) if results else None
        n = shape_of(config).num_parameters
        if not Path(config.checkpoint).expanduser().is_dir():
            downloads[config.checkpoint] = 2 * n
        kept += SAMPLE_BYTES * _evaluated(config) + (4 * n if config.train else 0)
        if config.train and not (run and (run / "model").is_dir()):
            training = max(training, RESUME_STATES * 12 * n)
        if run:
            written += _size(run / "checkpoints")
            kept -= _size(run / "model") + _size(run / "samples")
    return Disk(sum(downloads.values()), max(0.0, training - written), max(0.0, kept))


def _size(directory: Path) -> int:
    """Bytes of all files below ``directory``; one that another process removes meanwhile has
    none."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


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
    recipe = getattr(profile_module(config.profile), "RECIPE", None)
    # A mini profile with a checkpoint put in runs on one.
    return recipe.nodes[config.model] * recipe.gpus_per_node if recipe else 1


def print_plan(cells: Sequence[Cell], left: Sequence[Cell]) -> None:
    """Print one line a cell, the totals of those ``left`` to run, and the formulas."""
    width = max(len(cell.run_id) for cell in cells)
    print(f"{'':{width}}  {'':8} {'GPUs':>4} {'GiB each':>8} {'GPU hours':>9} {'disk GB':>8}")
    total = wall = 0.0
    for cell in cells:
        config, shape, space = cell.config, shape_of(cell.config), disk([cell])
        ranks, hours = planned_ranks(config), gpu_hours(shape, config)
        print(
            f"{cell.run_id:{width}}  {'to run' if cell in left else 'finished':8} {ranks:4} "
            f"{memory(shape, config, ranks).peak / GIB:8.1f} {hours:9.2f} "
            f"{(space.training + space.kept) / GB:8.1f}"
        )
        if cell in left:
            total, wall = total + hours, wall + hours / ranks
    space = disk(left)
    print(
        f"{len(left)} of {len(cells)} cells to run: about {total:,.1f} GPU hours ({GPU}), "
        f"{wall:,.1f} hours one cell after another; disk: {space.download / GB:.0f} GB downloaded, "
        f"{space.kept / GB:.0f} GB kept, {space.training / GB:.0f} GB more while a cell trains\n"
        f"{FORMULAS}"
    )
