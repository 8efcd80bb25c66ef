"""Carry a study between machines: ``sgpo study --export DIR`` and ``sgpo study --import DIR``.

An export is a few plain files: ``export.json`` says what is in it, sealed, and the parts, each
named after its checksum, together are one ``.tar``: samples, most of it, are compressed already,
and weights hardly shrink. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.store.load import stored_hash
from benchmarks.store.locks import locked
from benchmarks.store.runs import (
    METRICS,
    StoredRun,
    StudyError,
    is_finished,
    read_object,
    stored_runs,
)
from sgpo.core.files import (
    inside,
    read_jsonl,
    read_sealed_json,
    sha256_of,
    whole_directory,
    write_bytes,
    write_sealed_json,
    write_text,
)

MANIFEST = "export.json"
PART_BYTES = 15 * 2**20
WEIGHTS = ("model", "checkpoints")
BESIDE = ("problems.parquet", "disjointness.json")  # of the study, made of its runs
AGAIN = "run again first, because their weights are not here: "


class Standing(NamedTuple):
    """How far a run is; of two of the same run the greater one is kept."""

    finished: bool
    has_weights: bool  # or a resume state
    steps: int


def standing(run_dir: Path) -> Standing:
    path, states = run_dir / METRICS, run_dir / "checkpoints"
    weights = (run_dir / "model").is_dir() or (states.is_dir() and any(states.iterdir()))
    steps = len(read_jsonl(path)) if path.exists() else 0
    return Standing(is_finished(run_dir, weights=False), weights, steps)


# Out ----------------------------------------------------------------------------------------------


def export(
    results: Path,
    folder: Path,
    command: Sequence[str],
    asked: Mapping[str, str | None],
    weights_of: str | None = None,
) -> str:
    """Pack the study of ``results`` into ``folder``, in place of an earlier export there; a line
    that says what was packed.

    Args:
        command: the words after ``sgpo`` that go on with the study.
        asked: the runs that the command asks for, each with the run that it starts from.
        weights_of: the run that takes its weights and resume state along, and while it is not
            finished those that it started from.
    """
    with locked(results):
        study = read_object(results / "study.json")
        whole = {weights_of}
        if weights_of and not standing(results / "runs" / weights_of).finished:
            whole.add(asked[weights_of])
        planned = [cell["run_id"] for cell in study["cells"]]
        files = {
            run_id: _files_of(results / "runs" / run_id, run_id in whole) for run_id in planned
        }
        runs = [run_id for run_id, found in files.items() if found]
        beside = [results / name for name in BESIDE] + sorted(results.glob("analyses/*.json"))
        with tempfile.TemporaryFile(dir=results) as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for path in [p for p in beside if p.is_file()] + [*chain(*files.values())]:
                    archive.add(path, str(path.relative_to(results)), recursive=False)
            packed.seek(0)
            parts = []
            while content := packed.read(PART_BYTES):
                parts.append(f"{hashlib.sha256(content).hexdigest()}.part")
                write_bytes(folder / parts[-1], content)
    manifest = folder / MANIFEST
    before = read_sealed_json(manifest)["parts"] if manifest.exists() else []
    packed = {"study": study, "runs": runs, "parts": parts}
    write_sealed_json(manifest, packed | {"asked": dict(asked), "command": list(command)})
    for name in {*before} - {*parts}:
        (folder / name).unlink(missing_ok=True)
    ended = sum(standing(results / "runs" / run_id).finished for run_id in runs)
    size = sum((folder / name).stat().st_size for name in parts) / 2**20
    return (
        f"{folder}: {ended} finished runs and {len(runs) - ended} in progress exported, "
        f"{len(parts) + 1} files, {size:.1f} MiB"
        + (f", with the weights of {weights_of}" if weights_of else "")
    )


def _files_of(run_dir: Path, whole: bool) -> list[Path]:
    """What to pack of a run: all but weights and resume states, if ``whole`` those too."""
    return [
        path
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
        and (whole or path.relative_to(run_dir).parts[0] not in WEIGHTS)
    ]  # fmt: skip


# In -----------------------------------------------------------------------------------------------


def take_in(folder: Path, results: Path, profile: str) -> list[str]:
    """Take the runs of an export into the study of ``results``, or make one there; the lines that
    say what came in and what is left.

    Raises:
        ValueError: no export, a damaged one, or one of another study; nothing was changed then.
    """
    parcel = _checked(folder)
    study, runs = parcel["study"], parcel["runs"]
    held = (results / "study.json").exists()
    plan = read_object(results / "study.json") if held else study | {"profile": profile}
    planned = {cell["run_id"] for cell in plan["cells"]}
    strange = [run_id for run_id in runs if run_id not in planned]
    if strange or plan["profile"] != study["profile"]:
        which = f"{strange[0]} is not planned there" if strange else "another profile"
        raise ValueError(
            f"--import {folder}: is of another study (profile {study['profile']}) than {results}: "
            f"{which}; choose a directory of its own with --out, and --profile {study['profile']} "
            "or none"
        )
    with locked(results), tempfile.TemporaryDirectory(dir=results, prefix=".tmp-") as temporary:
        unpacked = Path(temporary)
        _unpack(folder, parcel["parts"], unpacked)
        for run_id in runs:
            _check_run(unpacked / "runs" / run_id, folder)
        published = {run_id for run_id, run in stored_runs(results).items() if run.published}
        taken = [  # all of them are found before the first is moved
            run_id
            for run_id in runs
            if _is_ahead(
                unpacked / "runs" / run_id, inside(results / "runs", run_id), run_id in published
            )
        ]
        for run_id in taken:
            _move(unpacked / "runs" / run_id, results / "runs" / run_id)
        # What lies beside the runs comes in where it is absent.
        for path in [unpacked / name for name in BESIDE] + [*unpacked.glob("analyses/*.json")]:
            target = results / path.relative_to(unpacked)
            if path.is_file() and not target.exists():
                write_bytes(target, path.read_bytes())
        if not held:
            write_text(results / "study.json", json.dumps(study, indent=1, sort_keys=True) + "\n")
    return _said(parcel, results, taken)


def _checked(folder: Path) -> dict[str, Any]:
    """The manifest of an export whose parts are whole."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"--import {folder}: holds no export ({MANIFEST} is absent)")
    parcel = read_sealed_json(folder / MANIFEST)
    for name in parcel["parts"]:
        path = inside(folder, name)
        if not path.is_file():
            raise ValueError(f"--import {folder}: {name} is absent; copy the whole export again")
        if sha256_of(path) != name.removesuffix(".part"):
            raise ValueError(f"--import {folder}: {name} is damaged; copy the export again")
    return parcel


def _unpack(folder: Path, parts: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryFile(dir=target) as whole:
        for name in parts:
            whole.write((folder / name).read_bytes())
        whole.seek(0)
        try:
            with tarfile.open(fileobj=whole) as archive:
                for member in archive:
                    _extract(archive, member, target.resolve())
        except tarfile.TarError as error:
            raise ValueError(f"--import {folder}: cannot be unpacked ({error})") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Files and directories below ``target`` and nothing else; Python 3.11.2 has no filter yet."""
    place = (target / member.name).resolve()
    if not place.is_relative_to(target) or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"{member.name}: neither a file nor a directory of the export")
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as source, place.open("wb") as out:
        shutil.copyfileobj(source, out)


def _check_run(run_dir: Path, folder: Path) -> None:
    """ValueError unless ``run_dir`` is there, at its own address, and its files are as the run left
    them. Weights that were left out are not missed."""
    if not run_dir.is_dir():
        raise ValueError(
            f"--import {folder}: holds nothing of {run_dir.name}, which it lists; export again; "
            "nothing was taken in"
        )
    if not (run_dir / "result.json").exists():
        return
    run = StoredRun(run_dir)
    result = run.object("result.json")
    if (address := stored_hash(run, result)) != run_dir.name.rpartition("-")[2]:
        raise ValueError(f"--import {folder}: the settings in {run_dir.name} are of {address}")
    for name, digest in result.get("sha256", {}).items():
        found = run.digest(name)
        if found != digest and (found or not name.startswith("model/")):
            raise StudyError(
                f"--import {folder}: {run_dir.name}/{name} is not as its run left it; "
                "nothing was taken in"
            )


def _is_ahead(source: Path, target: Path, published: bool) -> bool:
    """Whether the run that came takes the place of what is here."""
    came, here = standing(source), standing(target)
    if published:  # without a directory, but whole: only its weights can be new
        here = here._replace(finished=True, steps=sys.maxsize)
    elif not target.exists():
        return True
    if came <= here:
        return False
    if "model" not in _only_here(source, target):
        return True
    # What comes finished may have ended with other weights than those that are judged here.
    sums = read_object(source / "result.json").get("sha256", {}) if came.finished else {}
    weights = (target / "model").glob("*.safetensors")
    return all(sums.get(f"model/{path.name}") == sha256_of(path) for path in weights)


def _only_here(source: Path, target: Path) -> list[str]:
    """Which weights of the run would be lost; resume states are worth nothing beside a model."""
    came = [name for name in WEIGHTS if (source / name).exists()]
    return [n for n in WEIGHTS if (target / n).is_dir() and n not in came and "model" not in came]


def _move(source: Path, target: Path) -> None:
    """Put a run that came in the place of the one here, whose weights stay where it has none."""
    kept = _only_here(source, target)
    with whole_directory(target) as whole:
        for name in kept:
            shutil.copytree(target / name, whole / name)
        for path in source.iterdir():
            path.rename(whole / path.name)


def _said(parcel: Mapping[str, Any], results: Path, taken: Sequence[str]) -> list[str]:
    """What came in, what is left, and how to go on."""
    stored = stored_runs(results)
    left = [run_id for run_id in parcel["asked"] if run_id not in stored]
    ended = [run_id for run_id in taken if run_id in stored]
    kept = len(parcel["runs"]) - len(taken)
    lines = [
        f"{results}: {len(ended)} finished runs and {len(taken) - len(ended)} in progress came in"
        + (f"; {kept} were here already, at least as far or with other weights" if kept else "")
    ]
    lines += [f"came in: {' '.join(taken)}"] if taken else []
    parents = {parcel["asked"][run_id] for run_id in left} - {None, *left}
    at = {parent: standing(results / "runs" / parent) for parent in parents}
    again = [p for p, found in at.items() if found.steps and not found.has_weights]
    lines += [AGAIN + " ".join(sorted(again))] if again else []
    if left:
        words = _placed(parcel["command"], results)
        lines += [f"{len(left)} left to run: {' '.join(left)}", f"to go on: {words}"]
    return [*lines, f"tables of what is here: sgpo report --out {shlex.quote(str(results))}"]


def _placed(command: Sequence[str], results: Path) -> str:
    """``command`` with ``results`` for its own directory and without its export."""
    words, rest = ["sgpo"], iter(command)
    for word in rest:
        name, given, _ = word.partition("=")
        if name not in ("--out", "--export", "--export-weights"):
            words.append(word)
        elif not given:
            next(rest, None)
    return shlex.join([*words, "--out", str(results)])
