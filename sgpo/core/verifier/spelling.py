"""One spelling for answers: characters, commands, words and mark-up, units, money.

``canonical`` applies the rules of ``spelling.toml`` in order; it never changes the mathematics.
Words stay as ``\\text{..}``, degrees as ``°``, for units and forms to be read.
"""

import re
from functools import lru_cache

from sgpo.core.verifier.patterns import FOLDER, compiled, patterns, table

_P = patterns("spelling")

MAX_SAID_CHARS = 600  # longer answers are formulas: their words are not looked into

_TABLE = table("spelling.toml")
_WORDS = {name: words.split() for name, words in _TABLE["words"].items()}
_CHARACTERS = {c + 0xFEE0: chr(c) for c in range(0x21, 0x7F)}  # full width, as in Chinese text
_CHARACTERS |= {ord(c): new for old, new in _TABLE["characters"].items() for c in old}
_COMMANDS = {f"\\{n}": new for new, names in _TABLE["commands"].items() for n in names.split()}
_COMMANDS["\\ "] = " "
_FUNCTIONS = frozenset("".join(_TABLE["names"]["FUNCTION"]).split("|")) | {"max", "min"}
BASE_WORDS = {name: i for i, name in enumerate(_WORDS["bases"], 2)}
_SCRIPTS = [
    (re.compile(f"[{raised}]+"), sign, str.maketrans(raised, plain))
    for raised, (sign, plain) in _TABLE["scripts"].items()
]


@lru_cache(maxsize=16_384)
def canonical(text: str) -> str:
    """The answer in one spelling."""
    if _P.number.fullmatch(text):
        return text
    text = _P.spaces.sub(" ", _P.control.sub("", text))
    if not text.isascii():
        for script, sign, table in _SCRIPTS:
            text = script.sub(lambda m, s=sign, t=table: f"{s}{{{m.group().translate(t)}}}", text)
        text = text.translate(_CHARACTERS)
    for needle, pattern, replacement in _RULES:
        if needle in text:
            text = pattern.sub(replacement, text)
    return text


def plain_words(text: str) -> str:
    """``text`` with the words of its ``\\text{..}`` spans bare."""
    return _P.spaces.sub(" ", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)).strip()


@lru_cache(maxsize=16_384)
def words_key(text: str) -> str:
    """A word answer for comparison: no markup, case, punctuation or parentheses around it."""
    return _P.choice.sub(r"\1", plain_words(text).casefold().strip(" .,;:!\"'"))


def amount(found: re.Match[str]) -> str:
    """``\\$1,000`` as ``1000\\text{ dollars}``."""
    before, mark, inside, number, number_ahead, mark_behind = found.groups()
    if (before and inside) or len(found.string) > MAX_SAID_CHARS:
        return found.group()
    number = re.sub(r"[^\d.]", "", number or number_ahead).removesuffix(".")
    currency = next(c for s, c in _TABLE["currencies"].items() if s in (mark or mark_behind))
    return f"{before or inside or ''}{number}\\text{{ {currency}}}"


def rows_as_list(found: re.Match[str]) -> str:
    """The rows of a mere layout, or bare lines, as a list, or a set of cases; an array as it is."""
    kind, body = found.groupdict().get("kind"), found["body"]
    rows = [row.strip(" ,;").removesuffix(".") for row in _P.row_end.split(body)]
    cases = [_P.case.sub(case, row) for row in filter(None, rows)]
    if len(set(cases) - set(rows)) > (not kind):
        return f"\\{{{', '.join(cases)}\\}}"
    if kind == "array" and "&" in body and "=" not in body and "\\text" not in body:
        return found.group()
    return re.sub(r"(?<!\\)&", " " if kind else " and ", ", ".join(filter(None, rows)))


def case(found: re.Match[str]) -> str:
    """``x^2 & \\text{if } x > 0`` as ``(x^2,(x > 0))``, which binds a value to its condition."""
    value, condition = filter(None, found.groups())
    said = _P.case_word.sub("", _P.in_text.sub(r" \1 ", condition)).strip(" ,;.")
    said = f"\\text{{{said}}}" if _P.long_word.search(said) else said
    return f"({value},({said}))"


def text_group(found: re.Match[str]) -> str:
    """Words of ``\\mathrm{~cm^2}``, ``\\text{5 apples}`` as ``\\text{..}``, the rest as it is."""
    kind, inside = found.groups()
    words = _P.spaces.sub(" ", inside).strip()
    key = words.casefold()
    before, after = found.string[: found.start()], found.string[found.end() :]
    if not words or (_P.rounded.fullmatch(words) and before.strip()):
        return " "
    if (joiner := _TABLE["joiners"].get(key.strip(" ,"))) is not None:
        return f" {',' if key[0] == ',' else ''} {joiner} "
    if key in _FUNCTIONS and (kind != "text" or _P.function_argument.match(after)):
        return f"\\{key} "
    power = _P.unit_power_inside.fullmatch(words)
    if power and unit_name(power.group(1)):
        return f"\\text{{{power.group(1)}.}}^{{{power.group(2)}}}"
    if len(words) == 1:
        measures = before.rstrip(" \\,;").endswith(tuple("0123456789}")) and before[-1] != "^"
        return f"\\text{{{words}.}}" if measures and words in "mghslLWJNVCFK" else words
    is_choice = re.fullmatch(r"\(?[A-Z][).]+", words)
    joins = re.search(r"\b(?:and|or)\b", words) and re.search(r"\d", before + after)
    if is_choice or not (joins or re.search(r"[\d=+<>|\\^,;(]", words)):
        return f"\\text{{{words}}}"
    return _P.word_run.sub(r"\\text{\g<0>}", words)


def base(found: re.Match[str]) -> str:
    """``52 \\text{ base eight}`` as ``52_{8}``."""
    said = found.group(1) or found.group(2)
    number = said if said.isdigit() else BASE_WORDS.get(said)
    return found.group() if number is None else f"_{{{number}}}"


def chosen(found: re.Match[str]) -> str:
    """C(7,3), C_7^3 and {}_7C_3 as a binomial coefficient; C_1^2 is something else."""
    n, k = (part.strip() for part in found.groups())
    are_numbers = n.isdigit() and k.isdigit() and int(n[:9]) >= int(k[:9])
    return f"\\binom{{{n}}}{{{k}}}" if k and (n in "nmN" or are_numbers) else found.group()


_MADE = {f"@{f.__name__}": f for f in (amount, rows_as_list, text_group, base, chosen)}
_MADE["@command"] = lambda found: _COMMANDS.get(found.group(), found.group())
_RULES = [
    (needle, compiled(pattern, _TABLE["names"]), _MADE.get(new, new))
    for needle, pattern, new, *times in _TABLE["rules"]
    for _ in range(*times or (1,))
]

_UNIT_NAMES = {name: re.compile(row[0]) for name, row in _TABLE["units"].items()}
# What one of a unit is in the first of its family, for 12 cm = 0.12 m.
SIZES = {name: (row[1], row[2]) for name, row in _TABLE["units"].items() if len(row) > 1}
_BARE_UNITS = [words.pattern for name, words in _UNIT_NAMES.items() if name not in "NJW"]
_NAMES = _TABLE["names"] | {"ANY_UNIT": "|".join(sorted(_BARE_UNITS, key=len, reverse=True))}
_BEHIND = [compiled(pattern, _NAMES) for pattern in _TABLE["behind"]]
_NOUNS = frozenset((FOLDER / "counted_nouns.txt").read_text().split())
_SMALL, _NO_NOUNS = frozenset(_WORDS["small"]), frozenset(_WORDS["no_nouns"])


def unit_name(words: str) -> str | None:
    """A unit's name ("cm", "cm^2"), "?" for one of no size ("units"), None for other words."""
    words = words.strip(" .()").casefold()
    if power := _P.unit_power.fullmatch(words):
        name = unit_name(power.group(2) or power.group(3) or "")
        order = 2 if (power.group(1) or power.group(4))[0] == "s" else 3
        return name if name in (None, "?") else f"{name}^{order}"
    known = (name for name, rx in _UNIT_NAMES.items() if rx.fullmatch(words))
    name = _TABLE["short_units"].get(words) or next(known, None)
    if name is None and (quotient := _P.quotient.fullmatch(words)):
        parts = [unit_name(part) for part in quotient.groups()]
        name = None if {None, "?"} & set(parts) else "/".join(map(str, parts))
    return name


def are_counted(words: str, problem: str | None) -> bool:
    """Whether words behind a number only say what is counted: nouns of our list or the problem."""
    known = [word.strip(".,;:()") for word in words.casefold().split()]
    asked = set(re.findall(r"[a-z]{3,}", problem.casefold())) - _NO_NOUNS if problem else set()
    return all(w in _NOUNS or w in asked or not w for w in known) and known[-1] not in _SMALL


def split_unit(text: str) -> tuple[str, str | None, str | None]:
    """``(value, unit, words)`` of a canonical answer: unit is None, a known name or "?" for one of
    no size, words are others behind the value. A degree sign is a unit but in sin and the like."""
    unit: str | None = None
    words: list[str] = []
    while text:
        found = next(filter(None, (pattern.search(text) for pattern in _BEHIND)), None)
        if found is None or not text[: found.start()].strip():
            break
        said, power = found["words"], found["power"]
        if (name := unit_name(said)) is not None:
            unit = f"{name}^{power}" if power and name != "?" else name
        elif said.strip(" ()."):
            words.insert(0, said)
        text = text[: found.start()].strip().removesuffix("(").strip()
    if unit and words and words[0].startswith("per ") and (per := unit_name(words[0][4:])):
        unit, words = f"{unit}/{per}", words[1:]
    if "°" in text and _P.trigonometric.search(text):
        text = _P.degree_number.sub(r"(\\frac{\1\\pi}{180})", text)
    elif "°" in text and (text.endswith("°") or re.fullmatch(r"-?\\frac\{[^{}]*°\}\{\d+\}", text)):
        unit = unit or "deg"
    return text.replace("°", ""), unit, " ".join(words) or None
