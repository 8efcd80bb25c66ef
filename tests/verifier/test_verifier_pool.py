"""The worker processes: deadlines, replacement, limits, threads, forks, and what they leave behind.

``/proc`` is the independent witness here: it says which processes live, their limits and maps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sgpo.core import verifier
from sgpo.core.verifier import grade, grade_many, pool
from sgpo.core.verifier.pool import MEMORY_LIMIT_BYTES, POOL

REPOSITORY = Path(__file__).resolve().parents[2]
# Takes minutes: ten to the eighth sines. Each call of _hang makes another one.
HANG = r"\boxed{\prod_{k=1}^{10^8} \sin (k+%d)}"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux /proc")


def _symbolic_pair(n: int) -> tuple[str, str]:
    """A pair that only the symbolic judge can decide, never seen before for each n."""
    return rf"\frac{{{n}}}{{\sqrt{{{n}}}}}", rf"\boxed{{\sqrt{{{n}}}}}"


def _worker_pids() -> list[int]:
    return [w.process.pid for w in POOL._all if w.process.poll() is None]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _left_alive(pids: list[int], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(_alive, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if _alive(pid)]


def _zombie_children() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if not _alive(int(pid))]


def test_a_batch_with_hanging_items_keeps_its_bound_and_the_other_verdicts(monkeypatch):
    monkeypatch.setattr(pool, "MAX_WORKERS", 2)
    grade_many([_symbolic_pair(2), _symbolic_pair(6)])  # start them before
    pairs = [(r"\pi", HANG % i) for i in range(6)]
    pairs += [_symbolic_pair(n) for n in (3, 5, 7)] + [("7", "\\boxed{7}"), ("7", "\\boxed{8}")]
    before = set(_worker_pids())
    started = time.monotonic()
    verdicts = grade_many(pairs, deadline_seconds=2.0)
    assert time.monotonic() - started < 4.0
    reasons = [v.reason for v in verdicts]
    assert reasons[:6] == ["timeout"] * 6
    assert reasons[6:] == ["correct"] * 4 + ["wrong"]
    assert not any(v.correct for v in verdicts[:6])
    # The stuck workers are gone and reaped, and the next item gets a fresh one.
    assert not set(_worker_pids()) & before
    assert _zombie_children() == []
    assert grade(*_symbolic_pair(11)).correct


def test_the_item_limit_ends_one_stuck_item_without_a_batch_limit(monkeypatch):
    monkeypatch.setattr(verifier, "ITEM_SECONDS", 0.7)
    assert grade(*_symbolic_pair(13)).correct
    started = time.monotonic()
    assert grade(r"\pi", HANG % 100).reason == "timeout"
    assert time.monotonic() - started < 2.5
    # A timeout is not remembered as a verdict on the answer.
    assert not any("k+100" in question[2] for question in verifier._known)


def test_threads_grade_side_by_side():
    def work(n: int) -> bool:
        right, wrong = _symbolic_pair(n), (_symbolic_pair(n)[0], rf"\boxed{{\sqrt{{{n + 1}}}}}")
        return grade(*right).correct and not grade(*wrong).correct

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(work, (17, 19, 23))) == [True] * 3


def test_a_worker_killed_from_outside_is_replaced():
    assert grade(*_symbolic_pair(29)).correct
    for pid in _worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert grade(*_symbolic_pair(31)).correct


def test_workers_are_limited_and_clean(monkeypatch):
    POOL.shutdown()
    monkeypatch.setenv("MASTER_ADDR", "should-not-be-inherited")
    assert grade(*_symbolic_pair(37)).correct
    (pid,) = _worker_pids()
    limits = Path(f"/proc/{pid}/limits").read_text()
    address_space = next(line for line in limits.splitlines() if "address space" in line)
    assert str(MEMORY_LIMIT_BYTES) in address_space
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"MASTER_ADDR" not in environment and b"PYTHONHASHSEED=0" in environment
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert maps and "libtorch" not in maps
    POOL.shutdown()
    assert _left_alive([pid], 5) == [] and _worker_pids() == []


def test_what_is_missing_in_a_worker_is_named(monkeypatch, tmp_path):
    POOL.shutdown()
    (tmp_path / "sympy.py").write_text("raise ImportError('no sympy here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(verifier.VerifierUnavailable, match="no sympy here; run `sgpo doctor`"):
        grade(*_symbolic_pair(61))
    assert _worker_pids() == [] and _zombie_children() == []


def test_repeated_and_equal_questions_are_judged_once():
    gold, answer = _symbolic_pair(41)
    assert all(v.correct for v in grade_many([(gold, answer)] * 20))
    POOL.shutdown()
    assert all(v.correct for v in grade_many([(gold, answer)] * 20))
    assert _worker_pids() == []  # from memory: no process was needed


def test_a_forked_child_does_not_share_the_pipes():
    assert grade(*_symbolic_pair(43)).correct
    parents = _worker_pids()
    pid = os.fork()
    if pid == 0:
        ok = _worker_pids() == [] and grade(*_symbolic_pair(47)).correct
        POOL.shutdown()
        os._exit(0 if ok else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert _worker_pids() == parents and grade(*_symbolic_pair(53)).correct


@pytest.mark.parametrize("how", ["idle", "stuck", "ended"])
def test_workers_end_with_their_parent(how):
    script = f"""
import threading, time
from sgpo.core import verifier
from sgpo.core.verifier.pool import POOL
verifier.ITEM_SECONDS = 2.0
assert verifier.grade(*{_symbolic_pair(59)!r}).correct
if {how == "stuck"}:
    pair = ("\\\\pi", {HANG % 7!r})
    threading.Thread(target=verifier.grade, args=pair, daemon=True).start()
    time.sleep(0.3)
print(*(w.process.pid for w in POOL._all), flush=True)
time.sleep({0 if how == "ended" else 60})
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        if how != "ended":
            assert all(map(_alive, pids))
            parent.kill()
    assert (parent.returncode == 0) == (how == "ended")
    assert _left_alive(pids, 8.0) == []
