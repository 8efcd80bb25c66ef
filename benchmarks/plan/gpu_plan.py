"""``--dry-run`` of a study on published checkpoints: every cell with GPUs, memory, hours and disk.

The hours are those of ``benchmarks.plan.cost``'s assumptions, which are printed below the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import Cell, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.plan import cost as gpu_cost
from benchmarks.plan.cost import GIB, REFERENCE
from benchmarks.profiles import profile_module
from benchmarks.run.tasks import is_done
from sgpo.core.models import context_length, read_config, rope_settings

GB = 1e9


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
    known = {c.name: c for c in CHECKPOINTS.values()}
    if config.checkpoint not in known:
        raise ValueError(
            f"checkpoint {config.checkpoint!r}: no such directory, and of the hub's models only "
            f"{', '.join(known)} are known before a download; download it and name its directory"
        )
    return known[config.checkpoint].shape


def planned_ranks(config: RunConfig) -> int:
    """GPUs that the profile runs a cell of this model on."""
    module = profile_module(config.profile)
    # A mini profile with a checkpoint put in runs on one.
    nodes = getattr(module, "NODES", {}).get(config.model, 1)
    return nodes * getattr(module, "GPUS_PER_NODE", 1)


def print_plan(cells: Sequence[Cell], results: Path) -> None:
    """Print one line a cell, the totals of what is left to run, and the assumptions."""
    width = max(len(cell.run_id) for cell in cells)
    print(f"{'':{width}}  {'':8} {'GPUs':>4} {'GiB each':>8} {'GPU hours':>9} {'disk GB':>8}")
    left = [cell for cell in cells if not is_done(cell, results)]
    for cell in cells:
        config, shape = cell.config, shape_of(cell.config)
        ranks, space = planned_ranks(config), gpu_cost.disk(shape, config)
        print(
            f"{cell.run_id:{width}}  {'to run' if cell in left else 'finished':8} {ranks:4} "
            f"{gpu_cost.memory(shape, config, ranks).peak / GIB:8.1f} "
            f"{gpu_cost.gpu_hours(shape, config):9.1f} "
            f"{(space.training + space.kept) / GB:8.1f}"
        )
    print(_totals(cells, left))
    print("Assumptions (nothing was measured on a GPU):")
    for line in gpu_cost.ASSUMPTIONS:
        print(f"- {line}")


def _totals(cells: Sequence[Cell], left: Sequence[Cell]) -> str:
    hours = wall = 0.0
    for cell in left:
        cost = gpu_cost.gpu_hours(shape_of(cell.config), cell.config)
        hours, wall = hours + cost, wall + cost / planned_ranks(cell.config)
    space = needed_disk(left)
    return (
        f"{len(left)} of {len(cells)} cells to run: about {hours:.0f} GPU hours "
        f"({REFERENCE.name}), {wall:.0f} hours one cell after another; disk: "
        f"{space.download / GB:.0f} GB downloaded, {space.kept / GB:.0f} GB kept, "
        f"{space.training / GB:.0f} GB more while a cell trains"
    )


def disk_left(left: Sequence[Cell], results: Path) -> gpu_cost.Disk:
    """``needed_disk`` less what earlier attempts of the cells have left in their directories: a
    run that is continued fills what it has, and one with its last weights trains no more."""
    runs = {cell: results / "runs" / cell.run_id for cell in left}
    to_train = [cell for cell, run in runs.items() if not (run / "model").is_dir()]
    needed, states = needed_disk(left), needed_disk(to_train).training
    written = sum(_size(run / "checkpoints") for run in runs.values())
    kept = sum(_size(run / name) for run in runs.values() for name in ("model", "samples"))
    return gpu_cost.Disk(needed.download, max(0.0, states - written), max(0.0, needed.kept - kept))


def _size(directory: Path) -> int:
    """Bytes of all files below ``directory``; one that another process removes meanwhile has
    none."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def needed_disk(left: Sequence[Cell]) -> gpu_cost.Disk:
    """What the cells take together, one after another."""
    parts = [(cell.config, gpu_cost.disk(shape_of(cell.config), cell.config)) for cell in left]
    local = {c.checkpoint for c, _ in parts if Path(c.checkpoint).expanduser().is_dir()}
    downloads = {c.checkpoint: d.download for c, d in parts if c.checkpoint not in local}
    return gpu_cost.Disk(
        sum(downloads.values()),
        max((d.training for _, d in parts), default=0.0),
        sum(d.kept for _, d in parts),
    )
