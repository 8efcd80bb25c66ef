"""The tables beside this file: ``patterns.toml`` (by room) and ``spelling.toml`` (the rules)."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).parent
_NAMED = re.compile(r"<([A-Z_]+)>")


def table(name: str) -> dict:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def compiled(pattern: str | list[str], names: dict[str, str | list[str]]) -> re.Pattern[str]:
    """A pattern, which may stand in several lines, with ``<NAME>`` replaced by its entry."""
    text = "".join(pattern)
    while _NAMED.search(text):
        text = _NAMED.sub(lambda found: "".join(names[found.group(1)]), text)
    return re.compile(text)


_TABLE = table("patterns.toml")


def patterns(room: str) -> SimpleNamespace:
    """The compiled patterns of a room by name."""
    found = {name: compiled(pattern, _TABLE["names"]) for name, pattern in _TABLE[room].items()}
    return SimpleNamespace(**found)
