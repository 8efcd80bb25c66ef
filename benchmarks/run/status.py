"""``sgpo status``: what of the planned grid exists here, and in what state."""

from __future__ import annotations

from pathlib import Path

from benchmarks.analyses.run import failure_path, result_path
from benchmarks.run.cell import is_finished
from sgpo.core.files import inside, read_json


def print_status(profile: str, results: Path) -> int:
    """One line a cell or analysis: finished, published (results without the local samples or
    weights that they were made from), failed, missing."""
    path = results / "study.json"
    if not path.exists():
        raise ValueError(f"{path}: no study here yet; start one with `bash reproduce.sh`")
    plan = read_json(path)
    runs = results / "runs"
    states = {c["run_id"]: _cell_state(inside(runs, c["run_id"])) for c in plan["cells"]}
    states |= {a["run_id"]: _analysis_state(results, a) for a in plan.get("analyses", [])}
    counts: dict[str, int] = {}
    for run_id, state in states.items():
        counts[state] = counts.get(state, 0) + 1
        print(f"{run_id:40} {state}")
    print(f"{profile}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
    return 0


def _cell_state(run_dir: Path) -> str:
    if is_finished(run_dir):
        return "finished"
    if (run_dir / "result.json").exists():
        return "published"
    if (run_dir / "failed.json").exists():
        return "failed"
    return "started" if run_dir.exists() else "missing"


def _analysis_state(results: Path, entry: dict) -> str:
    path = result_path(results, entry["run_id"])
    if path.exists() and sorted(read_json(path)["inputs"]) == sorted(entry["inputs"]):
        local = all(is_finished(results / "runs" / run_id) for run_id in entry["inputs"])
        return "finished" if local else "published"
    return "failed" if failure_path(results, entry["run_id"]).exists() else "missing"
