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

from benchmarks.reliability.kill import ROOT, Figures, Say
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


def fuzz(count: int, say: Say) -> tuple[Figures, bool]:
    """Figures of ``count`` inputs, and whether all of them were handled."""
    verdicts: Counter[str] = Counter()
    problems: list[str] = []
    undecided: list[str] = []
    tried, longest, slowest_exact, slowest_batch = 0, 0, 0.0, 0.0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sgpo-fuzz-") as scratch:
        canary = Path(scratch) / "executed"
        inputs = completions(canary)
        while pairs := list(islice(inputs, min(BATCH, count - tried))):
            tried += len(pairs)
            longest = max(longest, *(len(text) for _, text in pairs))
            try:
                slowest_exact = max(slowest_exact, *(_exact_seconds(text) for _, text in pairs))
                started = time.monotonic()
                judged = grade_many(pairs, deadline_seconds=BATCH_SECONDS)
                seconds = time.monotonic() - started
            except Exception as error:  # whatever an input provokes is the finding to report
                problems.append(f"a batch raised {type(error).__name__}: {error}"[:300])
                continue
            slowest_batch = max(slowest_batch, seconds)
            if seconds > BATCH_SECONDS + SLACK_SECONDS:
                problems.append(f"a batch took {seconds:.0f} s")
            if canary.exists():
                problems.append("an answer was executed")
            for (gold, text), verdict in zip(pairs, judged, strict=True):
                verdicts[verdict.reason] += 1
                right = verdict.reason == "correct"
                if verdict.reason not in REASONS or verdict.correct != right:
                    problems.append(f"{gold!r}, {text!r}: {verdict}"[:300])
                if verdict.reason in ("error", "timeout"):
                    undecided.append(f"{gold} / {text[:120]} ({verdict.reason})")
            if tried % (BATCH * 10) == 0:
                left = (time.monotonic() - began) * (count / tried - 1)
                say(f"{tried} of {count} inputs, about {left / 60:.1f} min left")
    figures = {
        "inputs": tried,
        "verdicts": dict(sorted(verdicts.items())),
        "executed": problems.count("an answer was executed"),
        "longest_input": longest,
        "slowest_exact_seconds": round(slowest_exact, 3),
        "slowest_batch_seconds": round(slowest_batch, 2),
        "batch_limit_seconds": BATCH_SECONDS,
        "seed": SEED,
        "without_a_verdict": undecided[:5],
        "failures": problems[:5],
    }
    return figures, not problems and slowest_exact < SLOW_SECONDS


def _exact_seconds(completion: str) -> float:
    """Processor time of extraction and the spelling rules, here."""
    began = time.process_time()
    span = extract(completion).text
    if span is not None and len(span) < 5_000:
        canonical(canonical(span))
    return time.process_time() - began


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
        "ours, every kind in both directions": [
            (c["gold"], c["pred"], bool(c["expected"])) for c in _rows("round3")
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
