"""``sgpo explain``: what was taken for the answer, how both sides were read, and who decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgpo.core.verifier import Verdict, answer_to, decide, form_of, forms, gold_answer, grade
from sgpo.core.verifier.compare import RULES, real_sets
from sgpo.core.verifier.extract import extract

FORM_CHARS = 300  # of a form in words; what was written is shown whole


@dataclass(frozen=True)
class Explanation:
    """How a verdict came about: where the span was found, both sides in one spelling (``answer`` is
    None where there is none), who decided."""

    verdict: Verdict
    extraction: str
    gold: str
    answer: str | None
    decided_by: str


def explain(gold: str, completion: str) -> Explanation:
    """The verdict on one completion with the steps that led to it. Raises as ``grade`` does."""
    right, found, answer = gold_answer(gold), extract(completion), None
    if found.text is None:
        decided_by = "extraction: no answer"
    else:
        answer = answer_to(right, found.text)
        one, other = form_of(right), form_of(answer)
        if one is None or other is None:
            decided_by = "too long or too deeply nested: identical text or wrong"
        else:
            is_open = decide(right, found.text) is None
            judge = "a worker process (sympy, math-verify)" if is_open else "exact rules"
            decided_by = f"{judge}: {rule_of(one, other)}"
    return Explanation(grade(gold, completion), found.path, right, answer, decided_by)


def rule_of(gold: forms.Form, answer: forms.Form) -> str:
    """The kind of rule that compares two forms, in words."""
    if gold != answer and real_sets(gold, answer) is not None:
        return "sets of real numbers"
    if not (isinstance(gold, forms.Scalar) and isinstance(answer, forms.Scalar)):
        return next(
            name for name, kind, _ in RULES if isinstance(gold, kind) or isinstance(answer, kind)
        )
    if gold.base or answer.base:
        return "digits in a base"
    if gold.counted or answer.counted:
        return "what is counted"
    if gold.unit and answer.unit:
        return "numbers with units"
    return "expressions" if None in (gold.value, answer.value) else "numbers"


def explain_text(gold: str, text: str, *, truncated: bool = False) -> str:
    """Print how the verdict on one completion comes about; its reason."""
    found = explain(gold, text)
    reason, decided_by = found.verdict.reason, found.decided_by
    if truncated:
        reason, decided_by = "truncated", "the token limit: a cut completion is never correct"
    span = found.verdict.extracted
    lines = {"gold": _line(gold), "found by": found.extraction}
    lines["answer"] = "none" if span is None else _line(span)
    for name, side in (("gold as", found.gold), ("answer as", found.answer)):
        if side is not None:
            lines[name] = f"{_line(side)}  =  {describe(form_of(side))}"
    lines |= {"decided by": decided_by, "verdict": reason}
    print(*(f"{name:<12}{said}" for name, said in lines.items()), sep="\n")
    return reason


def explain_samples(samples: Sequence[dict[str, Any]], problem_id: str, index: int | None) -> int:
    """Print how the verdicts on stored samples of a problem come about; 1 when a stored verdict is
    not the one that the verifier gives now, else 0. ValueError: no such problem or sample."""
    rows = [row for row in samples if row["problem_id"] == problem_id]
    if not rows:
        known = list(dict.fromkeys(str(row["problem_id"]) for row in samples))
        shown = ", ".join(known[:3]) + (f", .. {known[-1]}" if len(known) > 3 else "")
        raise ValueError(f"no problem {problem_id!r}; there are {shown}")
    chosen = [row for row in rows if index in (None, row["sample"])]
    if not chosen:
        raise ValueError(f"{problem_id} has {len(rows)} samples, none of index {index}")
    changed = 0
    for row in chosen:
        print(f"sample {row['sample']} of {problem_id}: {row['num_tokens']} tokens")
        print("text        " + printable(row["text"]).replace("\n", "\n" + " " * 12))
        now = explain_text(row["gold"], row["text"], truncated=row["finish_reason"] == "length")
        agrees = now == row["reason"]
        changed += not agrees
        print(f"stored      {row['reason']}{'' if agrees else '  <- NOT what is found now'}\n")
    return 1 if changed else 0


def describe(form: forms.Form | None) -> str:
    """A form in words: ``number 3/4``, ``list of 2: number 1; number 2``."""
    match form:
        case None:
            return "not parsed"
        case forms.Scalar(base=base) if base:
            return f"digits {form.text} in base {base}"
        case forms.Scalar(malformed=True):
            return f"no agreed value: {_short(form.text)}"
        case forms.Scalar(value=value):
            is_plain = value is not None and len(form.text) <= FORM_CHARS
            text = f"number {value}" if is_plain else f"expression {_short(form.text)}"
            text += " percent" * form.percent + f" (unit {form.unit})" * bool(form.unit)
            return text + f" (counts {form.counted})" * bool(form.counted)
        case forms.Words(key):
            return f"words {key!r}"
        case forms.Group(kind, items):
            shown = [*map(describe, items[:8]), *[".."] * (len(items) > 8)]
            return f"{kind} of {len(items)}: {'; '.join(shown)}"
        case forms.Interval(low, high, low_open, high_open):
            ends = ("(" if low_open else "["), (")" if high_open else "]")
            return f"interval {ends[0]}{describe(low)}, {describe(high)}{ends[1]}"
        case forms.Union(parts):
            return "union of " + " and ".join(map(describe, parts))
        case forms.Relation(sides=sides, ops=ops):
            rest = "".join(f" {op} {side}" for op, side in zip(ops, sides[1:], strict=True))
            return "relation " + _short(sides[0] + rest)
    raise AssertionError(form)


def printable(text: str) -> str:
    """``text`` with control characters but line ends escaped: a terminal shows it as it is."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def _short(text: str) -> str:
    cut = f" .. ({len(text)} characters)" if len(text) > FORM_CHARS else ""
    return _line(text[:FORM_CHARS]) + cut
