"""What stands in the way of a study on published checkpoints, said before anything is downloaded.

Each obstacle is one line: the value, what is allowed, what to do. Memory, hours and disk are the
estimates of ``benchmarks.plan.cost``; everything else is looked up on this machine. What
only the downloaded files can show, the run says before it trains: ``benchmarks.run.given``.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.config import Cell, RunConfig, build_method, user_method_file
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.hub import fetch_dataset
from benchmarks.data.problems import STRATEGIES, data_source, prepared_problems
from benchmarks.data.suites import SUITES, local_file
from benchmarks.plan import cost
from benchmarks.plan.cost import GB, GIB, PROMPT_ROOM, shape_of
from benchmarks.profiles import profile_module
from sgpo.core.method import SHOWABLE, shown_in_prompts
from sgpo.core.models import checkpoint_directory

RANK_CHOICES = (2, 4, 8, 16, 32, 64, 128)
HOST_ROOM = GIB  # main memory of a process besides weights


@dataclass(frozen=True)
class Hardware:
    """Bytes throughout. ``gpus``: memory of each visible GPU. ``rank``: of this process among the
    ``ranks`` of the launch, ``local_ranks`` of which run on this machine. ``token``: one for the
    hub is set. ``offline``: the hub must not be asked (HF_HUB_OFFLINE). ``compiles``: there are a C
    compiler and Python's headers."""

    gpus: tuple[float, ...]
    host_memory: float
    disk_free: float
    vllm: bool
    token: bool
    offline: bool
    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1
    compiles: bool = True


def this_machine(results: Path) -> Hardware:
    """The machine that this process runs on; ``results`` says which disk counts."""
    import torch
    from huggingface_hub import constants, get_token

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    folder = results.absolute()
    while not folder.exists():
        folder = folder.parent
    return Hardware(
        gpus=tuple(float(torch.cuda.get_device_properties(i).total_memory) for i in range(count)),
        host_memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        disk_free=float(shutil.disk_usage(folder).free),
        vllm=importlib.util.find_spec("vllm") is not None,
        token=get_token() is not None,
        offline=bool(constants.HF_HUB_OFFLINE),
        rank=int(os.environ.get("RANK", "0")),
        ranks=int(os.environ.get("WORLD_SIZE", "1")),
        local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        compiles=can_compile(),
    )


def can_compile() -> bool:
    """Whether there is what Triton builds its launchers with."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    return bool(compiler) and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def check(left: Sequence[Cell], results: Path, hardware: Hardware | None = None) -> None:
    """ValueError with all obstacles, unless every cell that is left to run can be run here."""
    plain = [cell.config for cell in left if cell.config.checkpoint is None]
    real = [cell for cell in left if cell.config.checkpoint is not None]
    found = [*_undeclared(left), *training_sets(plain)]
    if not importlib.util.find_spec("vllm"):
        found += [line for config in plain for line in _no_vllm(config)]
    if real:
        found += obstacles(real, results, hardware or this_machine(results))
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        raise ValueError(found[0])
    if found:
        raise ValueError("\n- ".join([f"{len(found)} things stand in the way:", *found]))


def obstacles(left: Sequence[Cell], results: Path, hardware: Hardware) -> list[str]:
    """One line each, every one once, for the cells that are left to run."""
    configs = [cell.config for cell in left]
    looks = (_checkpoint, _context, _compiler, _engine, _ranks)
    found = [line for config in configs for look in looks for line in look(config, hardware)]
    found += [*_memory(configs, hardware), *_host_memory(configs, hardware)]
    if hardware.rank == 0:  # which reads and writes for all
        found += [*training_sets(configs), *_benchmarks(configs), *_disk(left, results, hardware)]
    return list(dict.fromkeys(found))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


# The method and the checkpoint ----------------------------------------------------------------


def _undeclared(left: Sequence[Cell]) -> Iterator[str]:
    """Own methods that show what their ``shows`` does not name: whether the problems have it and
    the prompts fit would be found out in the middle of training."""
    for config in {cell.config.method: cell.config for cell in left}.values():
        path = user_method_file(config.settings)
        said = shown_in_prompts(build_method(config)) if path else ()
        for node in ast.walk(ast.parse(path.read_text())) if path else ():
            if isinstance(node, ast.keyword) and (name := _shown(node)) not in (None, *said):
                yield (
                    f"method file {path}, line {node.lineno}: a prompt shows a {name} and METHOD "
                    f"does not say so; add shows = {(*said, name)} to the class"
                )


def _shown(argument: ast.keyword) -> str | None:
    """What a call with ``guided=`` or ``shown=`` shows; None for another argument."""
    value = getattr(argument.value, "value", True)
    if argument.arg == "guided" and value is not False:
        return "strategy"
    return value if argument.arg == "shown" and value in SHOWABLE else None


def _in_cache(config: RunConfig) -> bool:
    """Whether the checkpoint is a local directory or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name = config.checkpoint
    if Path(name).expanduser().is_dir():
        return True
    return isinstance(try_to_load_from_cache(name, "config.json", revision=config.revision), str)


def _checkpoint(config: RunConfig, hardware: Hardware) -> Iterator[str]:
    """An incomplete directory, or one of the hub that cannot be fetched from here."""
    name, own = config.checkpoint, "a local directory with --set checkpoint=DIRECTORY"
    if Path(name).expanduser().is_dir():
        try:
            checkpoint_directory(name)
        except ValueError as error:
            yield str(error)
    elif _in_cache(config):
        return
    elif hardware.offline:
        yield (
            f"checkpoint {name!r}: not in the hub's cache and HF_HUB_OFFLINE is set; unset it, or "
            f"give {own}"
        )
    elif not hardware.token and any(c.gated and c.name == name for c in CHECKPOINTS.values()):
        yield (
            f"checkpoint {name!r} is gated and no token is set: accept its terms on the hub and "
            f"set HF_TOKEN, give {own}, or leave it out with --models"
        )


def _context(config: RunConfig, hardware: Hardware) -> Iterator[str]:
    """Completions that leave no room for a prompt."""
    context = shape_of(config).context
    engine = config.vllm.max_model_len if config.sampler == "vllm" else None
    if engine is not None and engine > context:
        yield (
            f"vllm.max_model_len={engine}: {config.model} was made for {context} positions; "
            "lower it"
        )
    limit = min(context, engine or context)
    lengths = {"evaluation.max_tokens": config.evaluation.max_tokens}
    if config.rollout is not None:
        lengths["rollout.max_tokens"] = config.rollout.max_tokens
    room = limit - min(PROMPT_ROOM, limit // 2)  # small contexts are those of tests
    for name, length in lengths.items():
        if length > room:
            yield (
                f"{name}={length}: leaves fewer than {limit - room} of {limit} positions for the "
                f"prompt; lower it to {room}"
                + (" or raise vllm.max_model_len" if limit < context else "")
            )


# The machine ----------------------------------------------------------------------------------


def _on_gpu(config: RunConfig, hardware: Hardware) -> bool:
    return config.device == "cuda" or (config.device == "auto" and bool(hardware.gpus))


def _compiler(config: RunConfig, hardware: Hardware) -> Iterator[str]:
    """What the losses of a training on a GPU are compiled with."""
    if config.train and _on_gpu(config, hardware) and not hardware.compiles:
        yield (
            "no C compiler or no Python.h: torch compiles the losses on a GPU; install them "
            "(Debian: apt install gcc python3-dev), or set CC"
        )


def _no_vllm(config: RunConfig) -> Iterator[str]:
    """The line for a run on vLLM where vLLM is not installed."""
    if config.sampler == "vllm" and config.vllm.server is None:
        yield (
            "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup-vllm` (GPU) or "
            "`bash reproduce.sh setup-vllm-cpu`, or use --set sampler=transformers (slow)"
        )


def _engine(config: RunConfig, hardware: Hardware) -> Iterator[str]:
    """vLLM that is not installed, or whose cache cannot hold one longest sequence."""
    if not hardware.vllm:
        yield from _no_vllm(config)
    elif hardware.gpus and _on_gpu(config, hardware):
        shape, smallest = shape_of(config), min(hardware.gpus)
        held = cost.memory(shape, config, hardware.ranks, smallest).full_sequences
        if held is not None and held < 1:
            yield (
                f"vllm.gpu_memory_utilization={config.vllm.gpu_memory_utilization:g}: vLLM's share "
                f"of a GPU of {smallest / GIB:.0f} GiB holds {held:.1f} sequences of "
                f"{config.vllm.max_model_len or shape.context} tokens of {config.model}, at least "
                "1 is needed; raise it, or lower vllm.max_model_len"
            )


def _ranks(config: RunConfig, hardware: Hardware) -> Iterator[str]:
    share = 0
    if config.train is not None:
        share = config.train.problems_per_step // config.train.updates_per_step
    if share and hardware.ranks > share:
        yield (
            f"{_count(hardware.ranks, 'rank')}: an update of {config.method} has {share} problems, "
            "at least one for each rank is needed; start fewer ranks or raise "
            "train.problems_per_step"
        )


def _memory(configs: Sequence[RunConfig], hardware: Hardware) -> Iterator[str]:
    """GPUs that are missing or too small, one line a model: that of its most demanding run."""
    configs = [config for config in configs if _on_gpu(config, hardware)]
    if not configs:
        return
    if not hardware.gpus:
        yield (
            "device=cuda: torch sees no GPU here; run on a machine with one (sgpo doctor), plan "
            "with --dry-run, or use --set device=cpu with a tiny checkpoint"
        )
        return
    if hardware.local_ranks > len(hardware.gpus):
        yield (
            f"{_count(hardware.local_ranks, 'rank')} on this machine: it has "
            f"{_count(len(hardware.gpus), 'GPU')}; lower torchrun --nproc-per-node"
        )
    smallest, ranks = min(hardware.gpus), hardware.ranks

    def peak(config: RunConfig, ranks: int = ranks) -> float:
        return cost.memory(shape_of(config), config, ranks, smallest).peak

    for model in dict.fromkeys(config.model for config in configs):
        worst = max((c for c in configs if c.model == model), key=peak)
        if peak(worst) <= smallest:
            continue
        enough = [more for more in RANK_CHOICES if more > ranks and peak(worst, more) <= smallest]
        engine = replace(worst.vllm, gpu_memory_utilization=0.2)
        if enough:
            remedy = (
                f"spread it over at least {enough[0]} GPUs with torchrun (`sgpo slurm` writes the "
                "scripts), or use a smaller model with --models"
            )
        elif peak(replace(worst, vllm=engine)) <= smallest:
            remedy = "lower vllm.gpu_memory_utilization"
        else:
            remedy = "more GPUs do not help: lower train.micro_batch_tokens and rollout.max_tokens"
        yield (
            f"{model}: {worst.method} needs about {peak(worst) / GIB:.0f} GiB on each of "
            f"{_count(ranks, 'GPU')}, the smallest has {smallest / GIB:.0f}; {remedy}"
        )


def _host_memory(configs: Sequence[RunConfig], hardware: Hardware) -> Iterator[str]:
    """Every rank reads the float32 weights into main memory before they go to shards; without a
    GPU gradients and moments stay there as well."""
    for config in {config.model: config for config in configs}.values():
        size = 4 if _on_gpu(config, hardware) else 20
        need = hardware.local_ranks * (size * shape_of(config).num_parameters + HOST_ROOM)
        if need > hardware.host_memory:
            yield (
                f"{config.model}: {_count(hardware.local_ranks, 'rank')} on this machine: about "
                f"{need / GIB:.0f} GiB of main memory are needed, it has "
                f"{hardware.host_memory / GIB:.0f}; start fewer ranks a machine, or use a "
                "smaller model"
            )


def _disk(left: Sequence[Cell], results: Path, hardware: Hardware) -> Iterator[str]:
    """Room for what the runs keep and what one of them needs while it trains, beside what is
    there."""
    download = cost.disk([c for c in left if not _in_cache(c.config)]).download
    space = cost.disk(left, results)
    need = download + space.training + space.kept
    if need > hardware.disk_free:
        yield (
            f"disk: the runs need about {need / GB:.0f} GB more (weights {space.kept / GB:.0f}, "
            f"resume states {space.training / GB:.0f}, downloads {download / GB:.0f}), "
            f"{hardware.disk_free / GB:.0f} are free at {results}; free some, choose another "
            "--out, or run fewer cells at a time with --models and --methods"
        )


# Data -----------------------------------------------------------------------------------------


def training_sets(configs: Sequence[RunConfig]) -> Iterator[str]:
    """Training sets that are missing, changed, without strategies or too small; each is read once
    however many runs share it."""
    wanted: dict[tuple, RunConfig] = {}
    for config in configs:
        if config.train is not None and config.data.source != "mini":
            step = config.train.problems_per_step
            key = (config.data.source, config.data.split, _is_guided(config), step)
            wanted.setdefault(key, config)
    for config in wanted.values():
        yield from _training_set(config)


def _is_guided(config: RunConfig) -> bool:
    return "strategy" in shown_in_prompts(build_method(config))


def _training_set(config: RunConfig) -> Iterator[str]:
    """The first thing that is wrong with the training set of a run."""
    source = config.data.source
    name, separator, _ = source.rpartition("@")
    folder = Path(name or source)
    if not (folder / "report.json").is_file():
        recipe = getattr(profile_module(config.profile), "RECIPE", None)
        verb = recipe.data_verb if recipe else "prepare"
        yield (
            f"data.source={source!r}: no prepared training set there; make it with "
            f"`sgpo data {verb} --out {folder}` (benchmarks/README.md), or name another one"
        )
        return
    now = data_source(folder)
    if not separator:
        yield f"data.source={source!r}: names no hash; the set there is {now}"
        return
    if now != source:
        yield (
            f"data.source={source!r}: the files there are {now} now (strategies added?); name "
            "that, or restore them"
        )
        return
    problems = prepared_problems(folder, config.data.split)
    step = config.train.problems_per_step
    if _is_guided(config) and not any(problem.strategy for problem in problems):
        lacks = f"no {STRATEGIES}"
        if (folder / STRATEGIES).is_file():
            lacks = f"{STRATEGIES} names no problem of {config.data.split!r} (of another set?)"
        yield (
            f"{name}: {lacks}, and {config.method} needs strategies; run `sgpo strategies "
            f"--data {name}` first, or choose other methods with --methods"
        )
    elif len(problems) < step:
        yield (
            f"{name}: {len(problems)} problems in split {config.data.split!r}, a step of "
            f"{config.method} takes {step}; prepare more, or lower train.problems_per_step"
        )


def _benchmarks(configs: Sequence[RunConfig]) -> Iterator[str]:
    """Test sets that would be missed only after the training."""
    keys = dict.fromkeys(k for c in configs for k in c.evaluation.suites if k in SUITES)
    missing = [key for key in keys if not _is_here(key)]
    if missing:
        yield (
            f"benchmark {', '.join(missing)}: neither below SGPO_DATA_DIR nor in the hub's cache; "
            "run `sgpo data check` once, which fetches and checks them"
        )


def _is_here(key: str) -> bool:
    if local_file(key) is not None:
        return True
    try:
        fetch_dataset(SUITES[key].hub[0], offline=True)
    except ValueError:
        return False
    return True
