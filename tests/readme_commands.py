"""The commands that README.md shows, as the words that the command line gets."""

from __future__ import annotations

import re
import shlex

FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
OWN_VERBS = ("setup", "setup-vllm", "setup-vllm-cpu", "test")  # of reproduce.sh alone


def commands(text: str) -> list[list[str]]:
    """Words after ``sgpo`` of every command in the bash blocks of ``text``, in order, whether it
    is given as ``sgpo``, through ``reproduce.sh`` or to torchrun."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = _words(shlex.split(line, comments=True))
            if words is not None:
                found.append(words)
    return found


def _words(words: list[str]) -> list[str] | None:
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables set for one command
        words = words[1:]
    if words[:2] == ["bash", "reproduce.sh"]:
        words = words[2:]
        if words and words[0] in OWN_VERBS:
            return None
        if words and words[0] == "--quick":
            return ["study", "--profile", "quick", *words[1:]]
        return words if words and not words[0].startswith("--") else ["study", *words]
    if words and words[0].endswith("/sgpo"):
        return words[1:]
    if "benchmarks.cli" in words and words[0].endswith("torchrun"):
        return words[words.index("benchmarks.cli") + 1 :]
    return None
