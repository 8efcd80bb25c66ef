"""The README.md beside a run's weights: what they are, what they were made from, their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgpo.core.files import read_json, write_text

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


def write_card(model: Path, run_dir: Path, scores: dict[str, Any]) -> None:
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
