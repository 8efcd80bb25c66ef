"""What mini worlds and SGPO's ledgers tell of a study: how hard each type and problem is, and the
KL that was offered and masked on tokens of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.store.records import Run, Study
from benchmarks.store.runs import CHOICES, LEDGER, PROBLEMS_FILE, SUMS, StudyError

THIRDS = ("hard", "middle", "easy")  # of a world's types or problems, by their prior
CLASSES = {  # of distilled tokens; the choices of a plan by the third that its type is in
    "hard": "choices, hardest third of types",
    "middle": "choices, middle third",
    "easy": "choices, easiest third",
    "opening": "first token",
    "style": "style line",
    "commitment": "openers of later lines",
    "routine": "all other tokens",
}


def planned(study: Study) -> bool:
    """Whether a seed is a world: base models are then run seed by seed."""
    return any(cell.method == "base" and cell.seed is not None for cell in study.cells)


@estimates.once
def thirds_of_types(study: Study, seed: int) -> dict[str, str]:
    """Type -> its third of ``THIRDS`` in a world; StudyError where the world is not recorded."""
    if seed not in study.problems.index:
        raise StudyError(
            f"{study.root.name}/{PROBLEMS_FILE} lacks the types of world {seed}; "
            "run sgpo study again"
        )
    # All problems of the world: those that a limit leaves need not name every type.
    known = study.problems.loc[seed].drop_duplicates("types").set_index("types")["prior"]
    known = known[~known.index.str.contains(" ")].sort_values(kind="stable")
    parts = np.array_split(np.arange(len(known)), len(THIRDS))
    return {known.index[i]: third for third, part in zip(THIRDS, parts, strict=True) for i in part}


@estimates.once
def thirds_of_problems(study: Study, seed: int, key: str) -> np.ndarray:
    """Index into ``THIRDS`` of each problem of a benchmark in a world, int [N], by how often its
    writers find all plans that the problem needs."""
    prior = study.problems_of(seed, key)["prior"].to_numpy()
    found = np.empty(len(prior), dtype=int)
    for third, part in enumerate(np.array_split(prior.argsort(kind="stable"), len(THIRDS))):
        found[part] = third
    return found


def accuracy_of_third(study: Study, run: Run, third: int) -> float:
    """Accuracy in percent on one of ``THIRDS``, mean over benchmarks."""
    keys = [b.key for b in study.benchmarks if not b.file]
    chosen = [thirds_of_problems(study, run.cell.seed, key) == third % len(THIRDS) for key in keys]
    scores = [run.accuracy[key][c].mean() for key, c in zip(keys, chosen, strict=True)]
    return PERCENT * float(np.mean(scores))


def accuracy_by_type(study: Study, run: Run) -> dict[str, float]:
    """Type -> share of its answers that are right, over all problems that name it alone."""
    right: dict[str, list[float]] = {}
    for key in (b.key for b in study.benchmarks if not b.file):
        types = study.problems_of(run.cell.seed, key)["types"]
        for kind, value in zip(types, run.accuracy[key], strict=True):
            if " " not in kind:
                right.setdefault(kind, []).append(value)
    return {kind: float(np.mean(values)) for kind, values in right.items()}


def _taught(run: Run) -> Iterator[tuple[str, str, np.ndarray]]:
    """Type and place of each row of a run's ledger, with its tokens, the KL offered and the KL that
    taught nothing, float [3]; none where it has no ledger. A ledger counts what Eq. 5 would mask:
    direct SFT masks nothing, and ``leave_out`` takes out a class whole."""
    if not run.stored.has(LEDGER):
        return
    settings = run.stored.object("config.json").get("settings") or {}
    named = {"opening": "first"} | dict.fromkeys(CHOICES, "choice")  # as leave_out has them
    for kind, places in run.stored.object(LEDGER).items():
        for place, sums in places.items():
            tokens, offered, masked = (sums[column] for column in SUMS)
            masked = 0.0 if settings.get("distillation") == "nll" else masked
            gone = named.get(place, place) == settings.get("leave_out")
            yield kind, place, np.array([tokens, offered, offered if gone else masked], dtype=float)


def kl_of_choices(run: Run) -> dict[str, np.ndarray]:
    """Type -> KL offered on the choices of its plan and what of it taught nothing, float [2]; {}
    where the run has no ledger."""
    found: dict[str, np.ndarray] = {}
    for kind, place, sums in _taught(run):
        if place in CHOICES:
            found[kind] = found.get(kind, np.zeros(2)) + sums[1:]
    return found


def kl_by_class(study: Study, run: Run) -> dict[str, np.ndarray]:
    """Class -> tokens, KL offered and KL that taught nothing of a run, float [3]; {} where it has
    no ledger."""
    if not run.stored.has(LEDGER):
        return {}
    thirds, found = thirds_of_types(study, run.cell.seed), {name: np.zeros(3) for name in CLASSES}
    for kind, place, sums in _taught(run):
        found[thirds[kind] if place in CHOICES else place] += sums
    return found


def masked_share(
    study: Study,
    model: str,
    method: str,
    classes: Sequence[str],
    seeds: Sequence[int] | None = None,
) -> Score | None:
    """Share in percent of the KL offered on tokens of ``classes`` that lay above delta, mean over
    worlds; None where a run is missing, has no ledger or offered none."""

    def share(run: Run) -> float:
        found = kl_by_class(study, run)
        _, offered, masked = sum(found[name] for name in classes) if found else np.zeros(3)
        return PERCENT * masked / offered if offered else float("nan")

    found = estimates.run_statistic(study, model, method, share, seeds)
    return found and replace(found, share=True)
