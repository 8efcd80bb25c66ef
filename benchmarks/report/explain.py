"""``sgpo explain``: what was taken for the answer, how both sides were read, and who decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgpo.core.verifier import Verdict, answer_to, decide, forms, gold_answer, grade
from sgpo.core.verifier.compare import kind_for, real_sets
from sgpo.core.verifier.extract import extract

FORM_CHARS = 300  # of a form in words; what was written is shown whole
# The rules of the comparison by the kind of forms they are for (``compare.RULES``).
RULES: dict[Any, str] = {
    forms.Words: "words, alone or in a short sentence",
    forms.Relation: "named values, chains and relations",
    forms.Interval | forms.Union: "ends of intervals",
    forms.Group: "lists, tuples, sets and matrices",
}


@dataclass(frozen=True)
class Explanation:
    """How a verdict came about: where the span was found, both sides in one spelling (``answer`` is
    None where there is none), who decided."""

    verdict: Verdict
    extraction: str
    gold: str
    answer: str | None
    decided_by: str


def _form(text: str) -> forms.Form | None:
    """The form of an answer; None if it is too long or deep: then only identical text is right."""
    return forms.parse_form(text) if forms.is_tractable(text) else None


def explain(gold: str, completion: str, *, truncated: bool = False) -> Explanation:
    """The verdict on one completion with the steps that led to it. Raises as ``grade`` does."""
    right, found = gold_answer(gold), extract(completion)
    answer = None if found.text is None else answer_to(right, found.text)
    sides = _form(right), None if answer is None else _form(answer)
    if truncated:
        decided_by = "the token limit: a cut completion is never correct"
    elif found.text is None:
        decided_by = "extraction: no answer"
    elif None in sides:
        decided_by = "too long or too deeply nested: identical text or wrong"
    else:
        is_open = decide(right, found.text) is None
        judge = "a worker process (sympy, math-verify)" if is_open else "exact rules"
        decided_by = f"{judge}: {rule_of(*sides)}"  # type: ignore[arg-type]
    verdict = grade(gold, completion, truncated=truncated)
    return Explanation(verdict, found.path, right, answer, decided_by)


def rule_of(gold: forms.Form, answer: forms.Form) -> str:
    """The kind of rule that compares two forms, in words."""
    if gold != answer and real_sets(gold, answer) is not None:
        return "sets of real numbers"
    if not (isinstance(gold, forms.Scalar) and isinstance(answer, forms.Scalar)):
        return RULES[kind_for(gold, answer)]
    if gold.base or answer.base:
        return "digits in a base"
    if gold.counted or answer.counted:
        return "what is counted"
    if gold.unit and answer.unit:
        return "numbers with units"
    return "expressions" if None in (gold.value, answer.value) else "numbers"


def explain_text(gold: str, text: str, *, truncated: bool = False) -> str:
    """Print how the verdict on one completion comes about; its reason."""
    found = explain(gold, text, truncated=truncated)
    span, reason = found.verdict.extracted, found.verdict.reason
    lines = {"gold": _line(gold), "found by": found.extraction}
    lines["answer"] = "none" if span is None else _line(span)
    for name, side in (("gold as", found.gold), ("answer as", found.answer)):
        if side is not None:
            lines[name] = f"{_line(side)}  =  {describe(_form(side))}"
    lines |= {"decided by": found.decided_by, "verdict": reason}
    print(*(f"{name:<12}{said}" for name, said in lines.items()), sep="\n")
    return reason


def explain_samples(samples: Sequence[dict[str, Any]], problem_id: str, index: int | None) -> int:
    """Print how the verdicts on stored samples of a problem come about; 1 when a stored verdict is
    not the one that the verifier gives now, else 0. ValueError: no such problem or sample."""
    rows = [row for row in samples if row["problem_id"] == problem_id]
    chosen = [row for row in rows if index in (None, row["sample"])]
    if not chosen:
        counts = Counter(str(row["problem_id"]) for row in rows or samples)
        known = ", ".join(f"{name} (samples: {n})" for name, n in counts.most_common(3))
        known += f" and {len(counts) - 3} more" if len(counts) > 3 else ""
        asked = "sample" if index is None else f"sample {index}"
        raise ValueError(f"no {asked} of problem {problem_id!r}; there are {known}")
    found = []
    for row in chosen:
        print(f"sample {row['sample']} of {problem_id}: {row['num_tokens']} tokens")
        print("text        " + printable(row["text"]).replace("\n", "\n" + " " * 12))
        is_cut = row["finish_reason"] == "length"
        found.append(explain_text(row["gold"], row["text"], truncated=is_cut))
        agrees = found[-1] == row["reason"]
        print(f"stored      {row['reason']}{'' if agrees else '  <- NOT what is found now'}\n")
    return int(found != [row["reason"] for row in chosen])


def describe(form: forms.Form | None) -> str:
    """A form in words: ``number 3/4``, ``list of 2: number 1; number 2``."""
    match form:
        case None:
            return "not parsed"
        case forms.Scalar(text, value):
            is_plain = value is not None and len(text) <= FORM_CHARS
            marks = {n: getattr(form, n) for n in ("percent", "unit", "counted", "base")}
            marks["of no agreed value"] = form.malformed
            notes = [n if said is True else f"{n} {said}" for n, said in marks.items() if said]
            shown = f"number {value}" if is_plain else f"expression {_short(text)}"
            return shown + f" ({', '.join(notes)})" * bool(notes)
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
        case forms.Relation(sides, ops):
            rest = "".join(f" {op} {side}" for op, side in zip(ops, sides[1:], strict=True))
            return "relation " + _short(sides[0] + rest)


def printable(text: str) -> str:
    """``text`` with control characters but line ends escaped: a terminal shows it as it is."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def _short(text: str) -> str:
    cut = f" .. ({len(text)} characters)" if len(text) > FORM_CHARS else ""
    return _line(text[:FORM_CHARS]) + cut
