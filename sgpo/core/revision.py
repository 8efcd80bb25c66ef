"""Which source made a run: the commit, and the patch that leads from it to what was on disk."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Files that decide numbers. Results, caches and documents change all the time and do not.
SOURCES = ("*.py", "pyproject.toml", "reproduce.sh")
MAX_PATCH_BYTES = 200_000


@dataclass(frozen=True)
class Revision:
    """``commit``: 40 hex digits, None outside a git checkout. ``patch``: None when the source
    files are those of the commit, else what ``git apply`` turns the commit into them with, or one
    line that says why it is not there."""

    commit: str | None
    patch: str | None

    @property
    def dirty(self) -> bool:
        return self.patch is not None


def revision(root: Path = ROOT) -> Revision:
    """The Revision of the checkout at ``root``; no commit if git or the repository is absent."""
    found = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    lines = (found or "").splitlines()
    # A copy without .git inside another repository must not pass for that one's commit.
    if len(lines) != 2 or Path(lines[0]) != root.resolve():
        return Revision(None, None)
    state = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
    if state == "":
        return Revision(lines[1], None)
    return Revision(lines[1], _patch(root))


def _patch(root: Path) -> str:
    """Changes of tracked sources since the last commit, and untracked ones as new files."""
    changed = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", "--", *SOURCES)
    added = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES)
    if changed is None or added is None:
        return "# git could not make the patch\n"
    patch = changed
    for name in filter(None, added.split("\0")):
        patch += _new_file(name, (root / name).read_bytes().decode(errors="replace"))
        if len(patch) > MAX_PATCH_BYTES:
            break
    size = len(patch.encode())
    if size > MAX_PATCH_BYTES:
        return f"# not stored: the patch is over the limit of {MAX_PATCH_BYTES} bytes\n"
    return patch


def _new_file(name: str, text: str) -> str:
    header = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    if not text:
        return header
    lines = text.split("\n")
    whole = lines[-1] == ""
    lines = lines[:-1] if whole else lines
    body = "".join(f"+{line}\n" for line in lines)
    end = "" if whole else "\\ No newline at end of file\n"
    return f"{header}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}{end}"


def _git(root: Path, *arguments: str) -> str | None:
    """Standard output of git, None if it failed.

    Without optional locks: "status" would else write the index anew, and a study killed in that
    moment left the user's repository locked.
    """
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
