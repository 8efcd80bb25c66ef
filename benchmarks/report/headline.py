"""What was found, in the words that open the report: every one follows from the stored runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.report import claims, document, estimates, worlds
from benchmarks.report.claims import Verdict
from benchmarks.report.document import Markdown, escape, in_words
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures import gains
from benchmarks.report.tables import accuracy
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import NOT_RUN, Study
from benchmarks.store.runs import StudyError
from benchmarks.store.stats import Estimate

OURS, BASELINE = accuracy.REFERENCE, "grpo"
BEST = "best_on_average"  # the claim
THIRDS = ("hardest", "middle", "easiest")


def short(study: Study, found: Sequence[Verdict]) -> Markdown:
    """The first paragraph: SGPO against SFT+GRPO, the paper's claim about it, what the budget
    changes, how the claims come out, and the study of other worlds beside this one."""
    own = [against(study), best(found), over_budgets(study), counted(found)]
    return Markdown(" ".join(filter(None, [*map(escape, own), beside(study)])))


def side(found: Estimate) -> str:
    """Where a difference lies, by its interval."""
    if found.low > 0:
        return "is ahead of"
    return "stays behind" if found.high < 0 else "cannot be told from"


def _grouped(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """(group, text) by group, in order."""
    found: dict[str, list[str]] = {}
    for group, text in texts:
        found.setdefault(group, []).append(text)
    return found


def against(study: Study) -> str:
    """SGPO minus SFT+GRPO on every model, grouped by the side on which it lies; where a run is
    missing the methods of the model in order."""
    gaps = {m: estimates.gain(study, m, OURS, BASELINE) for m in accuracy.models(study)}
    known = {model: gap for model, gap in gaps.items() if gap is not None}
    sides = _grouped(
        (side(gap.interval), f"{study.model(model).label} ({gap.text()})")
        for model, gap in known.items()
    )
    ours, theirs = map(study.method_label, (OURS, BASELINE))
    said = "; ".join(f"{words} {theirs} on {in_words(found)}" for words, found in sides.items())
    numbers = " or ".join(map(str, sorted({gap.num_seeds for gap in known.values()})))
    over = estimates.units_text(study, numbers)
    texts = [f"{ours} {said}: average accuracy in points, paired, over {over}."] if said else []
    return " ".join(texts + [ranking(study, m) for m in gaps if m not in known])


def best(found: Sequence[Verdict]) -> str:
    """The verdicts on the claim that SGPO is the best row, and what they are corrected for."""
    tests = [v for v in found if v.key == BEST]
    if not tests:
        return ""
    words = _grouped((v.verdict, v.subject) for v in tests)
    said = "; ".join(f"{verdict} on {in_words(on)}" for verdict, on in words.items())
    number = sum(v.corrected is not None for v in found)
    picked = in_words(sorted({str(v.picked_from) for v in tests if v.picked_from > 1}))
    rows = f"for picking the best of {picked} other rows and " if picked else ""
    how = f", corrected {rows}for {number} tests (Holm)" if number else ""
    return f"The paper's claim that it is the best row{how}: {said}."


def over_budgets(study: Study) -> str:
    """How SGPO minus SFT+GRPO changes with the budget; nothing without budgets."""
    if not gains.budget_needs(study):
        return ""
    gaps = {b: gap for b in experiments.BUDGETS if (gap := _at(study, gains.MODEL, OURS, b))}
    if len(gaps) < 2:
        return ""
    (least, first), *_, (most, last) = gaps.items()
    text = (
        f"On {study.model(gains.MODEL).label} the difference goes from {first.text()} at {least:g} "
        f"times the budget to {last.text()} at {most:g} times"
    )
    change = gains.when(study, BASELINE).get("twice the budget")
    if change is None:
        return f"{text}."
    moved = {"is ahead of": "gains ground", "stays behind": "loses ground"}.get(side(change))
    trend = f"SGPO {moved} with the budget" if moved else "no trend can be told"
    slope = f"{change.mean:+.1f} [{change.low:.1f}, {change.high:.1f}]"
    return f"{text}: {trend} ({slope} a doubling)."


def _at(study: Study, model: str, method: str, budget: float) -> Score | None:
    """The gain over SFT+GRPO at a budget."""
    return estimates.gain(study, model, method, BASELINE, budget=budget)


def counted(found: Sequence[Verdict]) -> str:
    """The verdicts on the paper's claims by number."""
    papers = [v.verdict for v in found if not v.past]
    return f"The paper's claims make {len(papers)} tests: {tally(papers)}."


def tally(verdicts: Sequence[str]) -> str:
    counts = [f'{number} "{word}"' for word, number in Counter(verdicts).most_common()]
    return in_words(counts) if counts else f"all are {NOT_RUN}"


def ranking(study: Study, model: str) -> str:
    """The RL methods of a model by average accuracy, and the base they started from."""
    scores = {m: estimates.accuracy(study, model, m, AVERAGE) for m in study.rl_methods}
    known = {m: score for m, score in scores.items() if score is not None}
    ordered = sorted(known, key=lambda m: -known[m].mean)
    text = ", ".join(f"{study.method_label(m)} {known[m].mean:.1f}%" for m in ordered)
    absent = [study.method_label(m) for m in study.rl_methods if m not in known]
    gap = f"; without a number: {', '.join(absent)}" if absent else ""
    return f"{study.model(model).label}, average accuracy: {text or NOT_RUN}{gap}."


# The studies beside this one ----------------------------------------------------------------------


def _kin(study: Study, root: Path) -> list[Study]:
    """The published studies next to ``root`` that share runs with ``study`` and have other seeds. A
    user's own directory, not published or with other settings, changes no page."""
    ours, found = {cell.run_id for cell in study.cells}, []
    for path in sorted(root.parent.glob("*/runs.parquet")):
        try:
            plan = Study.read(path.parent)
        except StudyError:  # its own report says so
            continue
        alike = plan.profile == study.profile and plan.grid.get("set") == study.grid.get("set")
        if alike and plan.seeds != study.seeds and ours & {cell.run_id for cell in plan.cells}:
            found.append(plan)
    return found


@estimates.once
def beside(study: Study) -> Markdown:
    """What another study of this profile says that lies beside this one and has runs of it: the
    result of one with more seeds; where the rest is of one with fewer. Nothing where there is
    none."""
    root = study.root.resolve()
    found = []
    for plan in _kin(study, root):
        page = os.path.relpath(plan.root / "REPORT.md", root)
        link = document.link(f"{plan.root.name}/REPORT.md", page)
        over = f"{len(plan.seeds)} {'worlds' if study.own_problems else 'seeds'}"
        if len(plan.seeds) > len(study.seeds):
            other, ours = load_study(plan.root), {cell.run_id for cell in study.cells}
            shared = len({c.seed for c in other.cells if c.run_id in ours} - {None})
            said = " ".join(filter(None, [against(other), best(claims.evaluate(other))]))
            found.append(f"Over {over}, {shared} of them these ({link}): {escape(said)}")
        else:
            methods = len({cell.method for cell in plan.cells})
            found.append(f"{methods} methods over {over}: {link}.")
    return Markdown(" ".join(found))


# Where it is ahead --------------------------------------------------------------------------------


def _third(study: Study, model: str, method: str, third: int) -> Score | None:
    """The gain over SFT+GRPO on a third of each world's problems, from the hardest."""
    if not worlds.planned(study):
        return None
    return estimates.run_gain(
        study, model, method, BASELINE, lambda run: worlds.accuracy_of_third(study, run, third)
    )


def places(study: Study, model: str, method: str) -> Mapping[str, Score]:
    """Where a method can be told from SFT+GRPO or not: thirds of the problems, and budgets."""
    thirds = {f"{n} third": _third(study, model, method, i) for i, n in enumerate(THIRDS)}
    budgets = {f"{b:g} x budget": _at(study, model, method, b) for b in experiments.BUDGETS}
    return {name: score for name, score in (thirds | budgets).items() if score is not None}


def ahead(study: Study) -> list[str]:
    """One line a method: where SGPO, with either teacher, is ahead of SFT+GRPO, and by how much."""
    lines = []
    for method in (OURS, experiments.INITIAL):
        planned = [m for m in accuracy.models(study) if study.cells_of(m, method)]
        found = {study.model(m).label: places(study, m, method) for m in planned}
        found = {label: at for label, at in found.items() if at}
        told = _grouped(
            (", ".join(f"{name} {score.text()}" for name, score in at.items()
                       if score.interval.low > 0) or "nowhere", label)
            for label, at in found.items()
        )  # fmt: skip
        said = "; ".join(f"{where} on {in_words(labels)}" for where, labels in told.items())
        number = max(map(len, found.values()), default=0)
        if said:
            lines.append(
                f"{study.method_label(method)}: ahead of {study.method_label(BASELINE)} {said}. "
                f"Ahead: interval above 0; {number} looks a model, thirds of the problems by "
                "difficulty and budgets, not corrected for their number."
            )
    return lines
