"""The examples of the report's and of the results' README run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.report.build import ARTEFACTS
from benchmarks.report.claims import judge, read
from benchmarks.report.estimates import AVERAGE, accuracy
from benchmarks.store.load import load_study

ROOT = Path(__file__).resolve().parents[2]


def blocks(name: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_a_table_a_figure_and_a_claim_of_ones_own(plain_study, tmp_path):
    study, names = load_study(plain_study[0]), {}
    for block in blocks("benchmarks/report/README.md"):
        exec(block, names)
    made = names["STEPS"].make(study, tmp_path)
    text = (tmp_path / "tables" / "steps.md").read_text()
    assert "| Qwen-S | SGPO | 40, 40, 40 |" in text and "Steps (mini profile)." in text
    assert {path.name for path in made.paths} == {"steps.md", "steps.csv", "steps.tex"}
    drawn = names["ENTROPY"].make(study, tmp_path)
    assert [path.suffix for path in drawn.paths] == [".png", ".pdf"]
    (entry,) = blocks("benchmarks/report/README.md", "toml")
    (claim,) = read(tomllib.loads(entry))
    found = judge(claim, study)
    assert [v.subject for v in found] == ["Qwen-S", "Qwen-M", "Llama-M"]
    for verdict, model in zip(found, ("qwen-s", "qwen-m", "llama-m"), strict=True):
        means = [accuracy(study, model, m, AVERAGE).mean for m in ("luffy", "hpt")]
        assert verdict.effect.mean == pytest.approx(means[0] - means[1])
    assert not {"steps", "entropy"} & {artefact.name for artefact in ARTEFACTS}
