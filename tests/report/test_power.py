"""``sgpo power``: its numbers are those of the pairs' own spread."""

from __future__ import annotations

from benchmarks.cli import main
from benchmarks.report import estimates
from benchmarks.store.load import load_study
from benchmarks.store.stats import units_needed


def test_every_pair_has_a_row_with_what_it_needs(plain_study, capsys):
    root, _ = plain_study
    assert main(["power", "--effect", "5", "--out", str(root)]) == 0
    text = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| Q")]
    assert len(rows) == 2 * 6 and "found (two-sided, p below 0.05) in 80 of 100" in text
    gain = estimates.gain(load_study(root), "qwen-m", "sgpo", "grpo")
    row = next(r for r in rows if r[:2] == ["Qwen-M", "SGPO - SFT+GRPO"])
    assert row[2:4] == ["3", f"{gain.mean:+.1f}"] and row[6] == f"{gain.of.detectable():.1f}"
    needed = [units_needed(gain.of, 5.0, own_problems=own) for own in (False, True)]
    assert row[7:] == ["never" if n is None else str(n) for n in needed]


def test_what_cannot_be_asked_is_one_line(plain_study, tmp_path, capsys):
    assert main(["power", "--effect", "0", "--out", str(plain_study[0])]) == 2
    assert "--effect 0: must be a number of points above 0" in capsys.readouterr().err
    assert main(["power", "--effect", "1", "--out", str(tmp_path)]) == 2
