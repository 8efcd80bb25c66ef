"""Units behind a number: which words are units, which only count, which change the number.

A missing or unknown unit never counts against an answer, two known ones that differ do.
"""

from __future__ import annotations

import re

# Unit words that are dropped when written without \text{}; longer first. Single letters only count
# after a space and a number, because ``3m`` is a product in mathematics.
_UNIT_GROUPS: dict[str, str] = {
    "cm": "cm|centimet(?:er|re)s?", "mm": "mm|millimet(?:er|re)s?", "km": "km|kilomet(?:er|re)s?",
    "m": "met(?:er|re)s?", "in": "inch(?:es)?", "ft": "ft|feet|foot", "yd": "yards?|yd",
    "mi": "miles?", "kg": "kg|kilograms?", "g": "grams?", "lb": "lbs?|pounds?", "oz": "ounces?|oz",
    "s": "sec(?:ond)?s?", "min": "min(?:ute)?s?", "h": "hrs?|hours?", "day": "days?",
    "week": "weeks?", "month": "months?", "year": "years?", "dollar": "dollars?|usd",
    "cent": "cents?|¢", "l": "lit(?:er|re)s?", "ml": "ml|millilit(?:er|re)s?", "?": "units?",
    "mi/h": "mph|miles per hour", "km/h": "km/h|kph", "m/s": "m/s", "rad": "rad(?:ian)?s?",
    "am": r"a\.?m", "pm": r"p\.?m", "euro": "euros?|eur", "pence": "pence",
}  # fmt: skip
_UNIT_NAMES = {name: re.compile(words) for name, words in _UNIT_GROUPS.items()}
_QUOTIENT = re.compile(r"(.+?)(?:\s*/\s*|\s+per\s+)(.+)")
_UNIT_POWER = re.compile(r"(square|sq\.?|cubic|cu\.?)\s+(.*)")
_SHORT_UNITS = {"m": "m", "g": "g", "s": "s", "h": "h", "l": "l", "in": "in"}
_ANY_UNIT = "|".join(sorted(_UNIT_GROUPS.values(), key=len, reverse=True))
_TEXT_UNIT = re.compile(r"\s*\\text\{([^{}]*)\}(?:\^\{?(\d)\}?)?$")
_BARE_UNIT = re.compile(
    rf"(?<=[\d)}}.a-zA-Z])\s+((?:square |sq |cubic )?(?:{_ANY_UNIT})(?: ?/ ?| per )(?:{_ANY_UNIT})"
    rf"|(?:square |sq |cubic )?(?:{_ANY_UNIT}))\.?(?:\^\{{?(\d)\}}?)?$"
    rf"|(?<=\d)((?:{_ANY_UNIT}))(?:\^\{{?(\d)\}}?)?$",
    re.IGNORECASE,
)


CHANGES = "!"
_NUMBER_WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty"
_ORDINALS = (  # "2 fifths"; but "4 fifth graders" are four
    "third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|[a-z]{3,5}teenth"
    "|twentieth|thirtieth|[a-z]{3,5}tieth|hundredth|thousandth|millionth|billionth"
)
_CHANGING = re.compile(
    r"\b(?:not|wrong|incorrect|impossible|or|and|more|less|fewer|least|most|than|unless|except|but"
    r"|plus|minus|mod|modulo|half|halves|dozens?|hundreds?|thousands?|[a-z]{0,8}illions?|lakhs?|crores?"
    r"|bn|mil|mn|score|gross|squared|cubed|factorial|negative|below|above|almost|nearly|base"
    r"|doubled|tripled|quadrupled|halved|twice|thrice|divided|multiplied|increased|decreased|out"
    r"|rejected|invalid|extraneous|discarded|excluded|false|fail(?:s|ed)?|cannot|never|no|nor"
    r"|neither|none|maybe|perhaps|possibly|if|otherwise|too|inverse)\b|n't\b|\b(?:point|remainder|choose)\s+[a-z\d]"
    rf"|(?:\b(?:times|of|over|by|to|through)|,)\s*(?:\d|(?:{_NUMBER_WORDS})\b)"
    rf"|\b(?:(?:{_ORDINALS})(?:s\b|(?=\W*$|\s+of\b)))",
    re.IGNORECASE,
)
_NUMBERS = re.compile(rf"\d+|\b(?:{_NUMBER_WORDS})\b", re.IGNORECASE)
# "5 R1", "5 ft 2 in", but neither "m2" nor "5 (to 2 decimal places)".
_FURTHER_NUMBER = re.compile(r"(?<![\^{mnt])\d")
_ROUNDED = re.compile(r"\b(?:places?|decimals?|digits?|figures?|nearest|rounded)\b", re.IGNORECASE)
# "12 ways": any word after a plain number, unless it changes the number.
_COUNTED = re.compile(
    r"(?<=\d)\s+(?!(?:mod|choose|base|times(?!$)|plus|minus|over|half|halves|thirds?|dozen|hundred|to)\b)"
    r"([a-z]{3,}(?: [a-z]{2,}){0,2})()$"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)°")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


_SIGN = r"\\\$|\\text\{\s*(?:\\?\$|[€£])\s*\}|[€£]|\\pounds(?![a-zA-Z])"
_AMOUNT = r"\d{1,3}(?:(?:,|\{,\}|\\!,|,\\!|\\,)\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_MONEY = re.compile(
    rf"(-?)\s*(?:({_SIGN})\s*(?:\\,|\\ )?\s*(-?)\s*({_AMOUNT})|({_AMOUNT})\s*({_SIGN}))\.?"
)
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds", "\\pounds": "pounds"}
_MONEY_CHARS = 60


def spell_out_currency(text: str) -> str:
    """``\\$1,000`` as ``1000\\text{ dollars}``; any text that is not one amount unchanged."""
    amount = text.strip()
    if len(amount) > _MONEY_CHARS:
        return text
    while len(amount) > 1 and amount[0] == amount[-1] == "$" and amount[-2] != "\\":
        amount = amount[1:-1].strip()
    found = _MONEY.fullmatch(amount)
    if found is None or (found.group(1) and found.group(3)):
        return text
    number = re.sub(r"[^\d.]", "", found.group(4) or found.group(5)).removesuffix(".")
    sign = next(s for s in _CURRENCIES if s in (found.group(2) or found.group(6)))
    minus = found.group(1) or found.group(3) or ""
    return f"{minus}{number}\\text{{ {_CURRENCIES[sign]}}}"


def unit_name(words: str) -> str | None:
    """A unit's canonical name ("cm", "cm^2"), "?" for one of no size ("units"), or None for words
    that are no unit this module knows."""
    words = words.strip(" .").casefold()
    if power := _UNIT_POWER.fullmatch(words):
        name = unit_name(power.group(2))
        return name if name in (None, "?") else f"{name}^{2 if power.group(1)[0] == 's' else 3}"
    if words in _SHORT_UNITS:
        return _SHORT_UNITS[words]
    name = next((name for name, rx in _UNIT_NAMES.items() if rx.fullmatch(words)), None)
    if name is None and (quotient := _QUOTIENT.fullmatch(words)):
        parts = [unit_name(part) for part in quotient.groups()]
        name = None if {None, "?"} & set(parts) else "/".join(map(str, parts))
    return name


def _changes_number(words: str) -> bool:
    """Whether words behind a number make it another number, or no answer."""
    if _ROUNDED.search(words):
        words = _NUMBERS.sub("", words)
    return bool(_CHANGING.search(words) or _FURTHER_NUMBER.search(words))


def split_unit(text: str) -> tuple[str, str | None]:
    """``(value, unit)`` of a canonical answer; unit is None, a known name, "?" for other text, or
    CHANGES for words that leave no plain number (``5 or more``).

    Writing a degree sign is a matter of style in every benchmark used here, so it is a unit like
    others; inside a trigonometric function it is what it means.
    """
    unit: str | None = None
    while True:
        if found := _TEXT_UNIT.search(text):
            unit = unit_name(found.group(1)) or "?"
        elif found := _BARE_UNIT.search(text):
            unit = unit_name(found.group(1) or found.group(3)) or "?"
        elif found := _COUNTED.search(text):
            unit = "?"
        else:
            break
        if not text[: found.start()].strip():
            break
        if _changes_number(found.group()):
            return text, CHANGES
        power = found.group(2) or (found.group(4) if found.re is _BARE_UNIT else None)
        unit = f"{unit}^{power}" if power and unit != "?" else unit
        text = text[: found.start()].strip()
    if "°" in text and _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    elif text.endswith("°"):
        unit = unit or "deg"
    return text.replace("°", ""), unit
