"""A run's directory: what lies in it and its only writers.

It holds, in the order of writing: config.json, environment.json and provenance.json (beside them
source.patch and method.py where there is one), metrics.jsonl and checkpoints/ while it trains,
train.json, model/ (an ordinary Hugging Face directory), samples/ per suite, scores.json, and last
result.json with the checksums of the others. ``store.runs.is_finished`` says when it is whole.
"""

from __future__ import annotations

import datetime
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from benchmarks.config import SUITE_VERSION, Cell, named_weights
from benchmarks.run import provenance
from benchmarks.run.given import Given
from benchmarks.store.runs import is_finished
from sgpo.core import sharding
from sgpo.core.config import to_dict
from sgpo.core.distributed import Ranks, describe_device
from sgpo.core.files import read_json, read_jsonl, whole_directory, write_json, write_text
from sgpo.core.runlog import environment, source_digest
from sgpo.core.trainer import Diverged

PAST_BUDGET = "diverged_past_budget"  # of train.json and result.json, in such runs alone
# The README.md beside a run's weights: what they are, what they were made from, their scores.
CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [sgpo]
---
# {run_id}

{model} trained by **{method}** (seed {seed}) with the SGPO benchmark suite.{miniature}

| what | value |
| --- | --- |
| base model | {base} |
| starts from | {start} |
| training data | {data} |
| prompt spec | {prompt} |
| commit of the suite | {commit} |
| packages | {packages} |

| benchmark | problems | samples a problem | accuracy in percent |
| --- | --: | --: | --: |
{scores}

All settings are in `config.json` of the run's directory, the origin of everything in
`provenance.json`. Accuracy is the mean over samples, of one run: no interval, no ranking.
"""
MINIATURE = """

This is a miniature: it knows an invented world of synthetic problems and nothing else."""


class RunDir:
    """The directory of ``cell`` below ``study_dir``. All ranks call its methods; rank 0 writes."""

    def __init__(self, study_dir: Path, cell: Cell, ranks: Ranks) -> None:
        self.path = study_dir / "runs" / cell.run_id
        self.cell, self.ranks = cell, ranks
        self.started, self._clock = _now(), time.perf_counter()
        self.model, self.samples = self.path / "model", self.path / "samples"

    def is_trained(self) -> bool:
        """Whether an earlier attempt has left the last weights; the same on all ranks."""
        return self.ranks.from_first(self.model.is_dir())

    def open(self) -> None:
        """Make room: forget an earlier failure, and remove results whose weights are not here
        (published or imported) and lie in the way of a new run, so that two runs never mix."""
        if not self.ranks.first:
            return
        (self.path / "failed.json").unlink(missing_ok=True)
        weights = (self.model, self.path / "checkpoints")
        gone = self.cell.config.train and not any(path.exists() for path in weights)
        ended = (self.path / "result.json").exists()
        if (ended or gone) and self.path.exists() and not is_finished(self.path):
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def begin(self, given: Given) -> None:
        """Write what is asked for, where it runs, and what it is made from."""
        if not self.ranks.first:
            return
        cell = self.cell
        names = {
            "run_id": cell.run_id,
            "config_hash": cell.hash,
            "settings_class": type(cell.config.settings).__name__,
            "parent": cell.parent.run_id if cell.parent else None,
        }
        if weights := named_weights(cell.config):
            names["weights"] = weights
        write_json(self.path / "config.json", names | to_dict(cell.config))
        used = describe_device(given.device)
        place = environment(used.get("device_name")) | used | {"ranks": self.ranks.size}
        write_json(self.path / "environment.json", place)
        provenance.record(self.path, cell, given, self.started)

    def measure(self, name: str, measurement: Callable[[], Any]) -> None:
        """Write what ``measurement`` returns to the file ``name``, unless it is there."""
        if self.ranks.first and not (self.path / name).exists():
            write_json(self.path / name, measurement())

    def store(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        diverged: Diverged | None,
        past_budget: Diverged | None = None,
    ) -> None:
        """Write train.json and ``model/``, and drop the resume states. All ranks gather weights.
        ``past_budget``: what ended the training after the weights it is judged by."""
        if not self.ranks.first:
            sharding.export(model, None)
            return
        reason = {"message": str(diverged), "fatal": diverged.fatal} if diverged else None
        seconds = sum(step["seconds"] for step in self.metrics())
        train: dict[str, Any] = {"seconds": seconds, "diverged": reason}
        if past_budget:
            train[PAST_BUDGET] = {"step": past_budget.step, "reason": str(past_budget)}
        write_json(self.path / "train.json", train)
        with whole_directory(self.model) as target:
            sharding.export(model, target)
            tokenizer.save_pretrained(target)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def finish(
        self, scores: dict[str, Any] | None, given: Given, num_parameters: int, eval_seconds: float
    ) -> dict[str, Any]:
        """Write scores.json, the model's card and result.json; what result.json says, on all ranks.
        ``scores`` are those of rank 0.

        Raises:
            Diverged: the loss became non-finite.
        """
        result = None
        if self.ranks.first:
            write_json(self.path / "scores.json", {"run_id": self.cell.run_id, **scores})
            suites = scores["benchmarks"].values()
            tokens = sum(s["mean_length"] * s["k"] * len(s["verdicts"]) for s in suites)
            result = self._training() | {
                "run_id": self.cell.run_id,
                "model": self.cell.config.model,
                "method": self.cell.config.method,
                "seed": self.cell.config.seed,
                "config_hash": self.cell.hash,
                "suite_version": SUITE_VERSION,
                "source_digest": source_digest(),
                "started": self.started,
                "ended": _now(),
                "wall_seconds": round(time.perf_counter() - self._clock, 2),
                "eval_seconds": round(eval_seconds, 2),
                "evaluation_tokens": round(tokens),
                "device": str(given.device),
                "num_parameters": num_parameters,
                "sha256": provenance.checksums(self.path),
            }
            if self.model.is_dir():
                _write_card(self.model, self.path, scores)
            write_json(self.path / "result.json", result)
        result = self.ranks.from_first(result)
        if result["diverged_fatally"]:
            raise Diverged(result["diverged_reason"], fatal=True)
        return result

    def _training(self) -> dict[str, Any]:
        """How the training ended and what it took."""
        path, steps = self.path / "train.json", self.metrics()
        train = read_json(path) if path.exists() else {"seconds": 0.0, "diverged": None}
        diverged, last = train["diverged"], steps[-1] if steps else {}
        return {
            "status": "diverged" if diverged else "finished",
            "diverged_reason": diverged["message"] if diverged else None,
            "diverged_fatally": bool(diverged and diverged["fatal"]),
            "train_seconds": round(train["seconds"], 2),
            "num_steps": len(steps),
            "num_samples": last.get("num_samples", 0),
            "sampled_tokens": last.get("sampled_tokens", 0),
        } | ({PAST_BUDGET: train[PAST_BUDGET]} if PAST_BUDGET in train else {})

    def metrics(self) -> list[dict[str, Any]]:
        """The training steps so far."""
        path = self.path / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []


def ended(result: dict[str, Any], how: str) -> str:
    """``how`` a run ended, for a line of progress, and whether it diverged past its budget."""
    past = result.get(PAST_BUDGET)
    return f"{how}; past its budget it diverged: {past['reason']}" if past else how


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write_card(model: Path, run_dir: Path, scores: dict[str, Any]) -> None:
    """Write README.md into ``model`` from the files of its run."""
    config, provenance, place = (
        read_json(run_dir / f"{name}.json") for name in ("config", "provenance", "environment")
    )
    data, mini = provenance.get("training_data", {}), config["data"]["source"] == "mini"
    rows = []
    for key, entry in scores["benchmarks"].items():
        letters = "".join(entry["verdicts"])
        accuracy = 100 * letters.count("c") / len(letters)
        rows.append(f"| {key} | {len(entry['verdicts'])} | {entry['k']} | {accuracy:.1f} |")
    text = CARD.format(
        run_id=config["run_id"],
        model=config["model"],
        method=config["method"],
        seed=config["seed"],
        miniature=MINIATURE if mini else "",
        base=config.get("checkpoint") or f"{config['model']}, pretrained by the suite",
        start=config["parent"] or "the base model",
        data=f"{config['data']['source']}, {data.get('num_problems')} problems, "
        f"sha256 {data.get('sha256', '')[:12]}",
        prompt=config["prompt"],
        commit=place.get("git_commit") or "none (no git checkout)",
        packages=", ".join(f"{name} {version}" for name, version in place["packages"].items()),
        scores="\n".join(rows),
    )
    write_text(model / "README.md", text)


def summary_of(error: BaseException) -> str:
    """The first line of what ``error`` says. Its class is named unless it was written for a user
    to read."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (ValueError, Diverged)) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def record_failure(
    path: Path, error: BaseException, method_files: Sequence[Path] = (), **more: object
) -> str:
    """Write ``path`` (failed.json) and the traceback beside it (.txt); the reason in one line, with
    the last place inside a user's method file and where the traceback lies."""
    log = write_text(path.with_suffix(".txt"), "".join(traceback.format_exception(error)))
    reason = summary_of(error)
    write_json(path, {"error": reason, "traceback": log.name, **more})
    own = {file.resolve() for file in method_files}
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if Path(f.filename).resolve() in own]
    if inside:
        last = inside[-1]
        return f"{reason} ({last.filename}, line {last.lineno}, in {last.name}; traceback: {log})"
    return reason if isinstance(error, ValueError) else f"{reason} (traceback: {log})"
