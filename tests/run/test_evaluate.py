"""Evaluation keeps every sample, counts exactly k of each, and can be judged again."""

from __future__ import annotations

import gzip

import pytest

from benchmarks.run import evaluate as ev


def row(problem, sample, text, gold="(1,2)", finish="stop"):
    return {
        "problem_id": problem, "sample": sample, "gold": gold, "text": text,
        "num_tokens": len(text.split()), "finish_reason": finish,
    }  # fmt: skip


ROWS = [
    row("a", 0, "so \\boxed{(1,2)}"),
    row("a", 1, "so \\boxed{(2,1)}"),
    row("b", 0, "no answer here at all"),
    row("b", 1, "so \\boxed{(1,2)}", finish="length"),
]


def test_verdict_letters_follow_the_samples_in_whatever_order():
    judged = ev.judged(ROWS)
    scores = ev.summarize(judged, ["a", "b"], 2)
    assert scores["verdicts"] == ["cw", "nt"] and scores["answers"] == "ab .."
    assert scores["mean_length"] == pytest.approx((2 + 2 + 5 + 2) / 4)
    assert ev.summarize(judged[::-1], ["a", "b"], 2) == scores


@pytest.mark.parametrize(
    ("gold", "answers", "word"),
    [
        ("(1,2)", ["7", "6", "(1,2)", "7 ", None, "8"], "abca.d"),
        ("1/2", ["0.5", "1/2"], "aa"),  # right ones vote together in any spelling
        ("1/2", ["1/3", "0.25", "\\frac{1}{3}", "1/4", "\\dfrac13", "\\text{none}", "none", "1/5"],
         "ababaccd"),
    ],
)  # fmt: skip
def test_answers_say_which_samples_agree(gold, answers, word):
    texts = ["no answer here at all" if a is None else f"\\boxed{{{a}}}" for a in answers]
    rows = [row("a", i, text, gold=gold) for i, text in enumerate(texts)]
    rows.append(row("a", len(rows), "\\boxed{7}", gold=gold, finish="length"))
    assert ev.answer_word(ev.judged(rows)) == word + "."
    many = [row("a", i, f"\\boxed{{{i}}}", gold="1000") for i in range(90)]
    assert len(set(ev.answer_word(ev.judged(many)))) == 90


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:3], "problem 'b' has 1 samples, not exactly 2"),
        ([*ROWS, row("c", 0, "x")], "unknown problem 'c'"),
        ([*ROWS, row("a", 2, "x")], "problem 'a' has 3 samples, not exactly 2"),
    ],
)
def test_a_wrong_number_of_samples_is_an_error(rows, message):
    with pytest.raises(ValueError, match=message):
        ev.summarize(ev.judged(rows), ["a", "b"], 2)


def test_samples_survive_the_disk_and_equal_rows_give_equal_bytes(tmp_path):
    judged = ev.judged(ROWS)
    ev.write_samples(tmp_path / "a.jsonl.gz", judged)
    ev.write_samples(tmp_path / "b.jsonl.gz", judged)
    stored = [{k: v for k, v in row.items() if k != "extracted"} for row in judged]
    assert ev.read_samples(tmp_path / "a.jsonl.gz") == stored
    again = ev.summarize(ev.read_samples(tmp_path / "a.jsonl.gz"), ["a", "b"], 2)
    assert again == ev.summarize(judged, ["a", "b"], 2)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_regrade_finds_a_verdict_that_does_not_follow_from_the_text(tmp_path):
    judged = ev.judged(ROWS)
    judged[0] = judged[0] | {"reason": "wrong", "correct": False}
    ev.write_samples(tmp_path / "x.jsonl.gz", judged)
    rows, changed = ev.regrade(tmp_path / "x.jsonl.gz")
    assert changed == 1 and rows[0]["reason"] == "correct"


@pytest.mark.parametrize("damage", ["cut", "not gzip", "not json"])
def test_a_damaged_samples_file_is_named(tmp_path, damage):
    path = tmp_path / "x.jsonl.gz"
    ev.write_samples(path, ev.judged(ROWS))
    content = {
        "cut": path.read_bytes()[:-20],
        "not gzip": b"hello",
        "not json": gzip.compress(b'{"a": 1}\n{"b":'),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x.jsonl.gz: no samples file, or a damaged one"):
        ev.read_samples(path)
