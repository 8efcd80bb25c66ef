"""Evaluation: sample every problem k times, grade, and keep every sample.

One gzipped JSONL file a suite, written whole or not at all, so that an interrupted evaluation
continues with the next suite, or within a suite with the next part of its problems; ``graders``
judges these files anew without a model.
"""

from __future__ import annotations

import gzip
import json
import shutil
import string
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from benchmarks.config import SUITE_VERSION, EvalConfig
from benchmarks.data.sources import problem_set_sha256
from benchmarks.store.runs import REASONS, read_samples
from sgpo.core.files import write_bytes
from sgpo.core.prompts import PromptSpec
from sgpo.core.sampling import Sampler, SamplingParams
from sgpo.core.seeding import derive_seed
from sgpo.core.trainer import Stopped
from sgpo.core.types import FinishReason, Problem
from sgpo.core.verifier import Verdict, grade, grade_many
from sgpo.core.verifier.extract import extract

Row = dict[str, Any]
Grader = Callable[..., list[Verdict]]  # called as verifier.grade_many is
Suites = dict[str, tuple[list[Problem], int]]  # problem sets by name, with samples a problem
LETTERS = {reason: letter for letter, reason in REASONS.items()}
NO_VOTE = "."
# What decides a score besides the model: two scores are comparable when these are equal.
PROTOCOL = ("temperature", "top_p", "max_tokens")
_SYMBOLS = string.ascii_letters + string.digits


def evaluate(
    *,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    prompt_spec: PromptSpec,
    config: EvalConfig,
    seed: int,
    samples_dir: Path,
    suites: Suites,
    progress: Callable[[int, int, str], None] | None = None,
    samples_per_part: int | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Scores of every suite (see ``summarize``); samples go to ``samples_dir``.

    Args:
        progress: told the samples that are there, of how many, and the accuracy so far.
        samples_per_part: store after about so many samples (at least one problem's), each part
            with a seed of its own; None: a suite is one part. Another value gives other samples
            of the same quality.

    Raises:
        Stopped: ``stop``, asked between suites, was true and one is left.
    """
    total = sum(len(problems) * k for problems, k in suites.values())
    protocol = {name: getattr(config, name) for name in PROTOCOL}
    done, letters = 0, ""

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            share = f"accuracy {letters.count('c') / len(letters):.1%}" if letters else ""
            progress(min(done, total), total, share)

    def draw(key: str, k: int, problems: Sequence[Problem], *names: int) -> list[Row]:
        """Judged samples; ``names`` are those of the part in its seed."""
        own = derive_seed(seed, "eval", key, *names)
        params = SamplingParams(**protocol, seed=own, stop_texts=prompt_spec.stop_texts)
        prompts = [prompt_spec.prompt_ids(tokenizer, p) for p in problems]
        groups = sampler.sample(prompts, k, params, report)
        return judged(sample_rows(problems, groups, prompt_spec))

    scores = {}
    for key, (problems, k) in suites.items():
        if stop is not None and scores and stop():
            raise Stopped
        path, parts = samples_dir / f"{key}.jsonl.gz", samples_dir / "parts" / key
        if path.exists():
            rows = read_samples(path)
            report(len(rows))
        else:
            if samples_per_part is None:
                rows = draw(key, k, problems)
            else:
                size = max(1, samples_per_part // k)
                rows = _in_parts(parts, problems, k, size, partial(draw, key, k), report)
            write_samples(path, rows)
            shutil.rmtree(parts, ignore_errors=True)
        scores[key] = summarize(rows, [p.id for p in problems], k) | {
            "protocol": protocol,
            "problem_set_sha256": problem_set_sha256(problems),
        }
        letters += "".join(scores[key]["verdicts"])
        report(0)
    shutil.rmtree(samples_dir / "parts", ignore_errors=True)
    return {"suite_version": SUITE_VERSION, "benchmarks": scores}


def _in_parts(
    folder: Path,
    problems: Sequence[Problem],
    k: int,
    size: int,
    draw: Callable[..., list[Row]],
    report: Callable[[int], None],
) -> list[Row]:
    """Judged samples of a suite, ``size`` problems at a time; finished parts are read back."""
    rows = []
    for start in range(0, len(problems), size):
        part, path = problems[start : start + size], folder / f"{start:06d}.jsonl.gz"
        if path.exists():
            found = read_samples(path)
            report(len(found))
        else:
            found = draw(part, start)
            summarize(found, [p.id for p in part], k)  # exactly k of each, or an error
            write_samples(path, found)
        rows += found
    return rows


def sample_rows(
    problems: Sequence[Problem], groups: Sequence[Sequence[Any]], prompt_spec: PromptSpec
) -> list[Row]:
    """One row a completion of ``groups``, not judged yet."""
    rows = []
    for problem, group in zip(problems, groups, strict=True):
        for index, completion in enumerate(group):
            text, ended = prompt_spec.graded_text(completion.text)
            reason = FinishReason.STOP if ended else completion.finish_reason
            rows.append(
                {
                    "problem_id": problem.id,
                    "sample": index,
                    "gold": problem.answer,
                    "text": text,
                    "num_tokens": len(completion.token_ids),
                    "finish_reason": reason.value,
                }
            )
    return rows


def judged(rows: Sequence[Row], grader: Grader = grade_many) -> list[Row]:
    """``rows`` with ``reason``, ``correct`` and ``extracted`` of a grader (ours, or one of
    ``graders.GRADERS``) put (or put anew) in each."""
    verdicts = grader(
        [(row["gold"], row["text"]) for row in rows],
        truncated=[row["finish_reason"] == FinishReason.LENGTH.value for row in rows],
    )
    return [
        row | {"reason": verdict.reason, "correct": verdict.correct, "extracted": verdict.extracted}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]


def summarize(rows: Iterable[Row], problem_ids: Sequence[str], k: int) -> dict[str, Any]:
    """Compact scores: one string of verdict letters per problem, the mean length, and ``answers``.

    ``answers`` says which samples of a problem agree, for majority votes: one word a problem, one
    symbol a sample, equal symbols for equal answers (see ``answer_word``), words joined by spaces.

    Raises:
        ValueError: a problem does not have exactly the samples 0..k-1, or is unknown.
    """
    by_problem: dict[str, dict[int, Row]] = {problem: {} for problem in problem_ids}
    tokens = []
    for row in rows:
        if row["problem_id"] not in by_problem:
            raise ValueError(f"sample of unknown problem {row['problem_id']!r}")
        by_problem[row["problem_id"]][row["sample"]] = row
        tokens.append(row["num_tokens"])
    for problem, found in by_problem.items():
        if sorted(found) != list(range(k)):
            raise ValueError(
                f"problem {problem!r} has {len(found)} samples, not exactly {k}: delete the "
                "samples file and evaluate again"
            )
    assert len(tokens) == k * len(by_problem), "a sample was stored twice"
    groups = [[found[i] for i in range(k)] for found in by_problem.values()]
    return {
        "k": k,
        "verdicts": ["".join(LETTERS[row["reason"]] for row in group) for group in groups],
        "mean_length": round(sum(tokens) / len(tokens), 4),
        "answers": " ".join(map(answer_word, groups)),
    }


def answer_word(rows: Sequence[Row]) -> str:
    """One symbol a sample of one problem: equal for samples that vote for the same answer.

    All correct samples vote together, because each equals the gold answer. Wrong ones vote
    together when the verifier judges their extracted answers equal, in whatever spelling. A sample
    without an answer, truncated or not judged casts no vote: ``NO_VOTE``. Symbols are given in
    the order of first appearance.
    """
    symbols: dict[str | None, str] = {}
    classes: dict[str, str] = {}  # an extracted answer -> the first one that equals it
    word = ""
    for row in rows:
        if row["reason"] not in ("correct", "wrong"):
            word += NO_VOTE
            continue
        # None stands for the gold answer: no extracted text can be mistaken for it.
        answer = None
        if row["reason"] == "wrong":
            found = row["extracted"] if "extracted" in row else extract(row["text"]).text
            spelled = "".join((found or "").split())
            if spelled not in classes:
                classes[spelled] = _first_equal(spelled, classes.values())
            answer = classes[spelled]
        index = len(symbols)
        # Past 62 different answers: letters that no JSON or report gives a meaning to.
        fresh = _SYMBOLS[index] if index < len(_SYMBOLS) else chr(0x4E00 + index)
        word += symbols.setdefault(answer, fresh)
    return word


def _first_equal(answer: str, others: Iterable[str]) -> str:
    """The first of the ``others`` that the verifier judges equal to ``answer``, else itself."""
    for other in dict.fromkeys(others):
        try:
            if grade(other, f"\\boxed{{{answer}}}").correct:
                return other
        except ValueError:  # cannot stand as a right answer: then it equals its own spelling alone
            continue
    return answer


def write_samples(path: Path, rows: Iterable[Row]) -> None:
    """Gzipped JSONL without a time stamp: equal rows give equal bytes. What was extracted follows
    from the text and is not stored."""
    kept = [{k: v for k, v in row.items() if k != "extracted"} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    write_bytes(path, gzip.compress(text.encode(), compresslevel=6, mtime=0))


def recomputed(rows: Sequence[Row], k: int, *, anew: bool = False) -> dict[str, Any]:
    """What the samples of a suite say of it (see ``summarize``), with ``anew`` by the verifier of
    today."""
    rows = judged(rows) if anew else rows
    return summarize(rows, list(dict.fromkeys(row["problem_id"] for row in rows)), k)
