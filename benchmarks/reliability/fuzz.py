"""Text through extraction and grading: hostile and random, and answers decided by hand.

``fuzz``: nothing raises, hangs or is executed. The inputs come from one fixed seed: soups of LaTeX
fragments, nested and unbalanced structures, towers of powers, control characters, attempts to reach
Python through sympy, long runs of one fragment, plain Unicode, the gold itself with a piece
replaced. Every input goes through extraction and the spelling rules on the spot, and in batches
through the whole verifier with its worker processes and a deadline. They are drawn by ``random``:
hypothesis takes longer to draw an input than the verifier to judge it.

``cases``: how many of the answers decided by hand (tests/data) come out as they should.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from benchmarks.reliability.faults import ROOT, Figures, Say
from sgpo.core.verifier import grade_many
from sgpo.core.verifier.extract import extract
from sgpo.core.verifier.spelling import canonical

SEED = 17
BATCH = 500
BATCH_SECONDS = 20.0
SLACK_SECONDS = 10.0  # start of a worker process in place of one that was killed
SHARED = 89  # cases of the peers' trackers, at the head of verifier_cases.jsonl
SLOW_SECONDS = 1.0  # extraction and exact rules of one input, in this process
REASONS = {"correct", "wrong", "no_answer", "truncated", "timeout", "error"}

_ATOMS = r"""0 1 2 3 7 10 12 0.5 .25 1,000 025 -1 x y n k a b C i e \pi \infty \theta f(x) A_1 52_8
    90° \text{cm} \text{(B)} \text{ or } yes \ldots \emptyset \% 1/2 2\frac{1}{3} 10^{10} 9! 1e5
    seven \alpha \$ 12:30 3:4 \sqrt2 x^2 \frac12 2^{1009} \log_2 n! ∞ √ ½ ٣ ２ 𝟗""".split()
_PIECES = r"""\boxed{ } { ( ) [ ] \{ \} | , ; = < \le \ge \ne \in \cup \cap \pm \mp + - \cdot * / ^
    _ ! ' : . .. \\ & $ $$ % \frac \sqrt \binom \sum_{k=1}^n \int_0^1 \prod \lim \sin \log
    \lfloor \rfloor \left \right \text{ \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases}
    and or is answer Answer: <think> </think> \approx \equiv \mod \choose \over \displaystyle
    ^{ _{ \, ^\circ \overline{ \dot{ \hat{ \operatorname{ \mathbb{R} 2 x 7 10""".split()
_SIGNS = list("+-*/^_=,;(){}[]<>|!'")
_FRAMES = (
    r"\frac{{{}}}{{{}}}", "{}^{{{}}}", r"\sqrt{{{}}}", "({}, {})", "{}+{}", r"\{{{}, {}\}}",
    r"\left({}\right)!", "[{}, {})", "{}={}",
)  # fmt: skip
_REPEATED = (
    r"""{ } ( 1+ x^ \frac{ 9 \sqrt - ,1 ! ^2 \left( $ <think> \boxed{ a_{ \text{ 1/ \\ & | =
    < ' x\in 1\approx + :1 \pm \cup \sin""".split()
    + [" ", "not ", "or ", "1 "]
)
_AROUND = ("\\boxed{%s}", "%s", "The answer is %s", "\\boxed{%s}}", "$%s$", "\\boxed{%s}",
           "<think>\\boxed{1}</think> \\boxed{%s}")  # fmt: skip


def _nested(rng: Random, depth: int = 3) -> str:
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(_ATOMS)
    return rng.choice(_FRAMES).format(_nested(rng, depth - 1), _nested(rng, depth - 1))


def _tight(rng: Random) -> str:
    return "".join(rng.choices(_ATOMS + _SIGNS, k=rng.randrange(11)))


def _unicode(rng: Random) -> str:
    """Characters of any plane, the first ones more often."""
    ends = (0x80, 0x300, 0x3000, 0xD7FF, 0x110000)
    points = [rng.randrange(rng.choice(ends)) for _ in range(rng.randrange(60))]
    return "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)


def _damaged(rng: Random, text: str) -> str:
    """``text`` with a piece put in place of another, or a slice of it left out."""
    start, end = sorted(rng.choices(range(len(text) + 1), k=2))
    return text[:start] + rng.choice(["", *rng.choices(_PIECES + _ATOMS, k=3)]) + text[end:]


def completions(canary: Path) -> Iterator[tuple[str, str]]:
    """(gold, completion) pairs of all kinds, without end. What would create ``canary`` if any of it
    were ever evaluated is among them."""
    call = f"open('{canary}','w')"
    attempts = [
        call,
        f"__import__('os').system('touch {canary}')",
        f"\\operatorname{{exec}}({call})",
        f"(lambda: {call})()",
        f"x.__class__.__init__.__globals__['open']('{canary}','w')",
        f"\\text{{{call}}}",
        f"eval(compile(\"{call}\",'','exec'))",
        f"f({call})",
        f"\\sqrt{{{call}}}",
        f"Symbol('x', {call})",
        f"lambdify(x, {call})()",
    ]
    rng = Random(SEED)
    golds = (_nested, lambda rng: rng.choice(_ATOMS), _tight)
    bodies = (
        lambda _: " ".join(rng.choices(_PIECES + _ATOMS, k=rng.randrange(17))),
        lambda _: _tight(rng),
        lambda _: _nested(rng),
        lambda _: rng.choice(_REPEATED) * round(2 * 1000 ** rng.random()),
        lambda _: _unicode(rng),
        lambda _: rng.choice(attempts),
        lambda gold: _damaged(rng, gold),
    )
    while True:
        gold = "7" + rng.choice(golds)(rng)
        text = rng.choice(_AROUND).replace("%s", rng.choice(bodies)(gold))
        yield gold, text if rng.randrange(8) else f"\\boxed{{{gold}}}"  # the gold itself


class _Search:
    """Takes inputs one by one, judges them in batches, counts what came out."""

    def __init__(self, canary: Path, total: int, say: Say) -> None:
        self.canary, self.total, self.say = canary, total, say
        self.pairs: list[tuple[str, str]] = []
        self.verdicts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.undecided: list[str] = []  # the first few inputs without a verdict
        self.tried = self.longest = 0
        self.slowest_exact = self.slowest_batch = 0.0
        self.began = time.monotonic()

    def take(self, gold: str, completion: str) -> None:
        began = time.process_time()
        span = extract(completion).text
        if span is not None and len(span) < 5_000:
            canonical(canonical(span))
        self.slowest_exact = max(self.slowest_exact, time.process_time() - began)
        self.longest = max(self.longest, len(completion))
        self.tried += 1
        self.pairs.append((gold, completion))
        if len(self.pairs) >= BATCH:
            self.judge()

    def judge(self) -> None:
        pairs, self.pairs = self.pairs, []
        if not pairs:
            return
        began = time.monotonic()
        try:
            verdicts = grade_many(pairs, deadline_seconds=BATCH_SECONDS)
        except Exception as error:  # noted, so that the other batches are judged
            self.problems.append(f"a batch raised {type(error).__name__}: {error}"[:300])
            return
        seconds = time.monotonic() - began
        self.slowest_batch = max(self.slowest_batch, seconds)
        if seconds > BATCH_SECONDS + SLACK_SECONDS:
            self.problems.append(f"a batch took {seconds:.0f} s")
        if self.canary.exists():
            self.problems.append("an answer was executed")
        for (gold, text), verdict in zip(pairs, verdicts, strict=True):
            if verdict.reason not in REASONS or verdict.correct != (verdict.reason == "correct"):
                self.problems.append(f"{gold!r}, {text!r}: {verdict}"[:300])
            if verdict.reason in ("error", "timeout") and len(self.undecided) < 5:
                self.undecided.append(f"{gold} / {text[:120]} ({verdict.reason})")
        self.verdicts.update(v.reason for v in verdicts)
        if self.tried % (BATCH * 10) == 0:
            left = (time.monotonic() - self.began) * (self.total / self.tried - 1)
            self.say(f"{self.tried} of {self.total} inputs, about {left / 60:.1f} min left")


def fuzz(count: int, say: Say) -> tuple[Figures, bool]:
    """Figures of ``count`` inputs, and whether all of them were handled."""
    with tempfile.TemporaryDirectory(prefix="sgpo-fuzz-") as scratch:
        search = _Search(Path(scratch) / "executed", count, say)
        try:
            for gold, completion in islice(completions(search.canary), count):
                search.take(gold, completion)
        except Exception as error:  # whatever an input provokes is the finding to report
            search.problems.append(f"{type(error).__name__}: {error}"[:500])
        search.judge()
    figures = {
        "inputs": search.tried,
        "verdicts": dict(sorted(search.verdicts.items())),
        "executed": sum("executed" in problem for problem in search.problems),
        "longest_input": search.longest,
        "slowest_exact_seconds": round(search.slowest_exact, 3),
        "slowest_batch_seconds": round(search.slowest_batch, 2),
        "batch_limit_seconds": BATCH_SECONDS,
        "seed": SEED,
        "without_a_verdict": search.undecided,
        "failures": search.problems[:5],
    }
    passed = not search.problems and search.tried >= count and search.slowest_exact < SLOW_SECONDS
    return figures, passed


def cases(count: int, say: Say) -> tuple[Figures, bool]:
    """Figures of the first ``count`` cases of every origin, and whether all are right."""
    tracked = [(c["gold"], c["pred"], bool(c["expected"])) for c in _rows("cases")]
    origins = {
        "from the peers' trackers": tracked[:SHARED],
        "ours, single": tracked[SHARED:],
        "ours, right and wrong spellings": [
            (row["gold"], f"\\boxed{{{text}}}", key == "right")
            for row in _rows("pairs")
            for key in ("right", "wrong")
            for text in row[key]
        ],
        "ours, whole completions": [
            (r["gold"], r["completion"], r["correct"]) for r in _rows("completions")
        ],
    }
    figures: Figures = {"cases": 0, "right": 0, "failures": []}
    for origin, found in origins.items():
        found = found[:count]
        verdicts = grade_many([(gold, text) for gold, text, _ in found])
        wrong = [c for c, v in zip(found, verdicts, strict=True) if v.correct != c[2]]
        figures[origin] = f"{len(found) - len(wrong)} of {len(found)} right"
        figures["cases"] += len(found)
        figures["right"] += len(found) - len(wrong)
        figures["failures"] += [f"{gold} / {text}" for gold, text, _ in wrong]
        say(f"{origin}: {figures[origin]}")
    return figures, not figures["failures"]


def _rows(name: str) -> list[dict]:
    path = ROOT / "tests" / "data" / f"verifier_{name}.jsonl"
    if not path.exists():
        raise ValueError(f"{path.name} is absent: the cases come with a source checkout")
    return [json.loads(line) for line in path.read_text().splitlines()]
