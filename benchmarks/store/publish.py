"""Make the files of a study small enough to keep in version control: ``sgpo publish``.

Weights, samples and resume states stay where they are (``.gitignore`` leaves them out). Of the
rest, scores.json loses its indentation and the numbers of metrics.jsonl all but their first
``DIGITS`` significant digits. result.json then holds the checksums of the files as published, and
under ``before_publishing`` those of the files as the run wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.store.locks import locked
from benchmarks.store.records import StudyError, read_object
from sgpo.core.config import canonical_json
from sgpo.core.files import sha256_of, write_bytes, write_json

DIGITS = 6
BEFORE = "before_publishing"


def publish(results: Path) -> int:
    """Shrink every ended run below ``results`` in place; the number of bytes saved. A second call
    changes nothing; one that was cut off is made up for by the next.

    Raises:
        store.StudyError: no study, or a file that is neither as its run left it nor as published.
        ValueError: another process writes to the study.
    """
    if not (results / "study.json").exists():
        raise StudyError(f"{results}: holds no study (study.json is absent)")
    with locked(results):
        runs = [p.parent for p in sorted(results.glob("**/runs/*/result.json"))]
        return sum(_publish_run(run) for run in runs)


def _publish_run(run: Path) -> int:
    result = read_object(run / "result.json")
    sums, before = dict(result.get("sha256", {})), dict(result.get(BEFORE, {}))
    new: dict[str, bytes] = {}
    for name, shrink in SHRINK.items():
        path = run / name
        if name not in sums or not path.exists():
            continue
        found = sha256_of(path)
        if found not in (sums[name], before.get(name)):
            raise StudyError(f"{path}: was changed after the run; sgpo audit says more")
        if name in before and found == sums[name]:
            continue  # as published; to shrink it further would lose what result.json vouches for
        content = shrink(path.read_text())
        digest = hashlib.sha256(content).hexdigest()
        if digest != sums[name]:
            before.setdefault(name, sums[name])  # of the first call: the run's own
            sums[name] = digest
        if digest != found:
            new[name] = content
    if sums != result.get("sha256", {}):
        # First, so that after a crash each file has either of the two checksums.
        write_json(run / "result.json", result | {"sha256": sums, BEFORE: before})
    saved = 0
    for name, content in new.items():
        saved += (run / name).stat().st_size - len(content)
        write_bytes(run / name, content)
    return saved


def _short_lines(text: str) -> bytes:
    lines = (json.dumps(_rounded(json.loads(line))) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines).encode()


def _rounded(value: Any) -> Any:
    """``value`` with floats of ``DIGITS`` significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value


def _compact(text: str) -> bytes:
    return f"{canonical_json(json.loads(text))}\n".encode()


SHRINK: dict[str, Callable[[str], bytes]] = {
    "metrics.jsonl": _short_lines,
    "scores.json": _compact,
}
