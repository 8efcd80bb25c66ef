"""The scores of one evaluated checkpoint as a table, with intervals over its problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.suites import SUITES
from benchmarks.report.document import Table, TextCell, csv_text, frame, table_markdown
from benchmarks.store import stats
from sgpo.core.files import write_text

NUM_DRAWS = 2000
NOTE = (
    "One checkpoint, one evaluation: intervals are 95% over problems (bootstrap) and say nothing "
    "about another training run. Truncated and no-answer samples count as wrong."
)


def score_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a suite, and their average where there are several: shares in [0, 1].

    ``accuracy`` is avg@k with ``low`` and ``high``; ``pass_at_k`` unbiased for k = all samples;
    ``truncated``, ``no_answer``, ``judge_failed``: shares of the samples.
    """
    rng = np.random.default_rng(0)
    rows, draws = [], []
    for key, entry in scores["benchmarks"].items():
        correct = stats.correct_matrix(
            entry["verdicts"], num_problems=len(entry["verdicts"]), k=entry["k"], where=key
        )
        shares = correct.mean(axis=1)[None, :]
        drawn = stats.two_level_bootstrap(shares, rng=rng, num_draws=NUM_DRAWS)
        interval = stats.estimate(stats.avg_at_k(correct), drawn)
        letters = "".join(entry["verdicts"])
        passed = stats.pass_at_k(correct.sum(axis=1), num_samples=entry["k"], k=entry["k"])
        rows.append(
            {
                "suite": key,
                "problems": len(entry["verdicts"]),
                "k": entry["k"],
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "pass_at_k": float(passed.mean()),
                "truncated": letters.count("t") / len(letters),
                "no_answer": letters.count("n") / len(letters),
                "judge_failed": sum(map(letters.count, "oe")) / len(letters),
                "mean_tokens": entry["mean_length"],
            }
        )
        draws.append(drawn)
    if len(rows) > 1:
        rows.append(_average(rows, np.mean(draws, axis=0)))
    return rows


def _average(rows: list[dict[str, Any]], draws: np.ndarray) -> dict[str, Any]:
    """The plain mean over suites, as the paper averages."""
    shares = ("accuracy", "pass_at_k", "truncated", "no_answer", "judge_failed", "mean_tokens")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in shares}
    interval = stats.estimate(mean["accuracy"], draws)
    return {
        "suite": "average",
        "problems": sum(row["problems"] for row in rows),
        "k": "",
        **mean,
        "low": interval.low,
        "high": interval.high,
    } | {"accuracy": interval.mean}


def score_table(scores: dict[str, Any], *, model: str, prompt: str) -> Table:
    """``score_rows`` in percent."""
    cells = []
    for row in score_rows(scores):
        label = SUITES[row["suite"]].label if row["suite"] in SUITES else row["suite"]
        interval = f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]"
        texts = (
            label, f"{row['problems']}", f"avg@{row['k']}" if row["k"] else "", interval,
            _percent(row["pass_at_k"]), _percent(row["truncated"]), _percent(row["no_answer"]),
            _percent(row["judge_failed"]), f"{row['mean_tokens']:.0f}",
        )  # fmt: skip
        cells.append(tuple(TextCell(text) for text in texts))
    header = ("Suite", "Problems", "Metric", "Accuracy % [95%]", "pass@k %", "Truncated %",
              "No answer %", "Judge failed %", "Mean tokens")  # fmt: skip
    caption = f"{model}, prompt spec {prompt}"
    return Table(header, tuple(cells), caption, numeric=frozenset(range(1, len(header))))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def write_scores(out: Path, scores: dict[str, Any], *, model: str, prompt: str) -> None:
    """Write table.md and table.csv to ``out``."""
    protocols = {str(sorted(e["protocol"].items())) for e in scores["benchmarks"].values()}
    table = score_table(scores, model=model, prompt=prompt)
    text = f"{NOTE}\n\nDecoding: {'; '.join(sorted(protocols))}.\n\n{table_markdown(table)}\n"
    write_text(out / "table.md", text)
    write_text(out / "table.csv", csv_text(frame(score_rows(scores))))


def print_scores(scores: dict[str, Any]) -> None:
    """One line a suite."""
    for row in score_rows(scores):
        k = f"avg@{row['k']}" if row["k"] else ""
        print(
            f"{row['suite']:14} {k:7} {100 * row['accuracy']:5.1f}% "
            f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]   {row['problems']} problems, "
            f"{100 * row['truncated']:.1f}% truncated, {100 * row['no_answer']:.1f}% no answer, "
            f"mean length {row['mean_tokens']:.1f} tokens"
        )
