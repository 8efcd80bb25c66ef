"""Why a task failed: one line for the person who waits, and the whole traceback beside the run."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from sgpo.core.files import write_json, write_text
from sgpo.core.trainer import Diverged


def summary_of(error: BaseException) -> str:
    """The first line of what ``error`` says. Its class is named unless it was written for a user
    to read."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (ValueError, Diverged)) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def record_failure(
    path: Path, error: BaseException, method_files: Sequence[Path] = (), **more: object
) -> str:
    """Write ``path`` (failed.json) and the traceback beside it (.txt); the reason in one line, with
    the last place inside a user's method file and where the traceback lies."""
    log = write_text(path.with_suffix(".txt"), "".join(traceback.format_exception(error)))
    reason = summary_of(error)
    write_json(path, {"error": reason, "traceback": log.name, **more})
    own = {file.resolve() for file in method_files}
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if Path(f.filename).resolve() in own]
    if inside:
        last = inside[-1]
        return f"{reason} ({last.filename}, line {last.lineno}, in {last.name}; traceback: {log})"
    return reason if isinstance(error, ValueError) else f"{reason} (traceback: {log})"
