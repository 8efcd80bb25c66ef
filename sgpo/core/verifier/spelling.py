"""One spelling for answers: LaTeX spellings, Unicode, units, currency, percent.

``canonical`` turns the many spellings of one formula into one string, so that most equal answers
are equal strings. It never changes the mathematics: a base subscript, an exponent, a letter at the
end of a product (``2t``) all stay; only marked-up text and known unit words are units.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "∈": r"\in ", "…": r"\ldots ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "“": '"', "”": '"', "’": "'", "\u00a0": " ", "\u2009": " ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "∖": r"\setminus ", "⁄": "/", "∣": "|", "′": "'",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "，": ",", "（": "(", "）": ")", "：": ":", "％": "%", "∀": r"\forall ", "θ": r"\theta ",
}  # fmt: skip
_FULL_WIDTH = {chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}  # as CJK keyboards write
_SCRIPTS = tuple(
    (re.compile(f"[{raised}]+"), sign, str.maketrans(raised, plain))
    for raised, sign, plain in (
        ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "^", "0123456789+-n"),
        ("₀₁₂₃₄₅₆₇₈₉ₙ", "_", "0123456789n"),
    )
)
_UNICODE_TABLE = str.maketrans(_FULL_WIDTH | _UNICODE)


# Applied in this order. Every entry is a spelling, not a meaning.
def _primes(found: re.Match[str]) -> str:
    return "'" * found.group(1).count("prime")


def _modulus(found: re.Match[str]) -> str:
    return f"\\pmod{{{found.group(1).strip('{}')}}}"


def _joined_digits(found: re.Match[str]) -> str:
    return "".join(c for c in found.group() if c.isdigit())


def _joined_rows(found: re.Match[str]) -> str:
    rows = (row.strip(" ,;.") for row in found.group(1).split("\\\\"))
    return ", ".join(row for row in rows if row)


def _chosen(found: re.Match[str]) -> str:
    """C_7^3 and {}_7C_3 as a binomial coefficient; C_1^2 is something else."""
    n, k = next(pair for pair in (found.groups()[:2], found.groups()[2:]) if pair[0])
    return f"\\binom{{{n}}}{{{k}}}" if int(n) >= int(k) else found.group()


def _recurring(found: re.Match[str]) -> str:
    first, between, last = found.groups(default="")
    return f"\\overline{{{first}{between}{last}}}"


def _per(found: re.Match[str]) -> str:
    over, under = (unit for unit in found.groups() if unit)
    return f"\\text{{{over}/{under}}}"


_PER = r"\\(?:mathrm|text)\s*\{\s*(km|cm|mm|m|mi|ft|kg|g|[lL]|s|h|hr|min|sec|mol|J|N|W)\s*\}"
_SPELLINGS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\\(|\\\)|\\\[(?!\d*(?:pt|em|ex|mm)\])|(?<!\\)\\\]", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:left|right|middle|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?(?=\s*[\[\](){}|.\\])", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|hspace\{[^{}]*\})(?![a-zA-Z])", " "),
        (r"\\(?:tiny|small|large|Large|LARGE|huge|Huge|underline)(?![a-zA-Z])|\\\\\s*$", " "),
        (r"\\(?:(?:text)?color|tag\*?|label)\s*\{[^{}]*\}", " "),
        (r"\\begin\{cases\}([^&]*?)\\end\{cases\}", _joined_rows),
        (r"\\\{\s*\\begin\{array\}\{[lcr]\}([^&]*?)\\end\{array\}\s*\.?$", _joined_rows),
        (r"\\pounds(?![a-zA-Z])|\\text\{\s*(?:USD|Rs\.?|[¥₹€£])\s*\}|\bUSD\b(?=\s*\d)", " "),
        (r"(?<=\d)\s*(?:\{,\}|\\!\s*,|,\s*\\!)\s*(?:\\!)?\s*(?=\d{3})", "\x02"),
        (r"(?<![\d.])(\d{1,3})(?:(?:\\[, ]|~)\d{3})+(?!\d)", _joined_digits),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;:> ]|(?<!\\)~|\\(?:q?quad|enspace|thinspace)(?![a-zA-Z])", " "),
        (r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:neq)(?![a-zA-Z])|!=|\\not\s*=", r"\\ne "),
        (r"\\(?:dots|dotsc|dotsb|cdots|ldots)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\l(?:angle|paren)(?![a-zA-Z])", "("),
        (r"\\r(?:angle|paren)(?![a-zA-Z])", ")"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\(?:dot)?div(?![a-zA-Z])", "/"),
        (r"\\(?:ast|times|cdot)(?![a-zA-Z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\\arc(sin|cos|tan)(?![a-zA-Z])", r"\\arc\1"),
        (r"\\(?:varnothing|emptyset)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\text\{\s*\}|\\(?:begin|end)\{(?:aligned|gathered|split|align\*?)\}", ""),
        (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
        (r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", _primes),
        (r"^\s*\\text\{\s*(-?\d[\d.,]*\s[a-z ]+)\}\s*$", r"\1"),
        (r"^\s*\\text\{(?=[^{}\\\d]*\d)((?:(?![a-zA-Z]{2})[^{}\\])*)\}\s*$", r"\1"),
        (rf"{_PER}\s*/\s*{_PER}|\\frac\s*\{{\s*{_PER}\s*\}}\s*\{{\s*{_PER}\s*\}}", _per),
        (r"(?<=\d)\s*\\(?:mathrm|text)\s*\{\s*([mghslL])\s*\}", r"\\text{\1.}"),  # a unit
        (r"\\(?:mathrm|text|mathit|textbf|textit|rm)\s*\{\s*([a-zA-Z])\s*\}", r"\1"),
        (r"(?<![a-zA-Z\\}])C_\{?(\d{1,3})\}?\^\{?(\d{1,3})\}?"
         r"|(?:\{\})?_\{?(\d{1,3})\}?\s*C_\{?(\d{1,3})\}?(?!\d)", _chosen),
        (r"(?<=\d)\^\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
        (r"(?<=[\d.])\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", _recurring),
        (r"(?<=[\d.])\\bar\s*\{?(\d+)\}?", r"\\overline{\1}"),
        (r"^\s*(-?\d+(?:\.\d+)?)[eE]\+?(-?\d{1,3})\s*$", r"\1\\cdot 10^{\2}"),
        (r"(?<=\\mathbb\{R\})\s*-\s*(?=\\\{)", r"\\setminus "),
        (r"\\text\{\s*(?i:the )?(?i:final )?(?i:answer)\s*(?:is|:|=)\s*:?\s*\}", ""),
        (r"\(?\s*\\[pb]?mod(?![a-zA-Z])\s*(\{[^{}]*\}|\d+|[a-zA-Z])\s*\)?", _modulus),
        (r"\\(?:mathbf|boldsymbol|mathit|bm|mathsf)\s*\{\s*([^{}]*)\s*\}", r"\1"),
        (r"\\(?:mbox|mathrm|text(?:bf|rm|it|sf|normal))(?![a-zA-Z])\s*(?=\{)", r"\\text"),
        (r"\\text\s*\{\s*,?\s*(and|or)\s*,?\s*\}", r" \1 "),
        (r"\\text\s*\{\s*([,;])\s*\}", r"\1 "),
        (r"\\(?:land|wedge)(?![a-zA-Z])", " and "),
        (r"\\(?:lor|vee)(?![a-zA-Z])", " or "),
        (r"\\degrees?(?![a-zA-Z])|\^\s*\{?\s*\\circ\s*\}?", "°"),
        (r"\\text\{\s*degrees?\s*\}|\bdegrees?\b", "°"),
        (r"(?<=\d)\s*(?:\\text\{\s*|\b)thousand\b\s*\}?", r"\\cdot 10^{3}"),
        (r"(?<=\d)\s*(?:\\text\{\s*|\b)million\b\s*\}?", r"\\cdot 10^{6}"),
        (r"(?<=\d)\s*(?:\\text\{\s*|\b)billion\b\s*\}?", r"\\cdot 10^{9}"),
        (r"\\text\{\s*for (?:all|any|every|each)\s*\}\s*[a-z](\s*\\in\s*\\mathbb\{\w\})?\s*$", ""),
        (r"\\text\{\s*(?:percent(?:age)?|pct)\s*\}|\b(?:percent(?:age)?|pct)\b|\\%", "%"),
        (r"\+\s*\\infty|\binfinity\b|\binfty\b(?<!\\infty)", r"\\infty "),
        (r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|log|ln|cdot|frac)(?=[^a-zA-Z]|$)", r"\\\1"),
    )
)  # fmt: skip
_MARKDOWN = re.compile(r"\*\*|__(?=\S)|`")
_NOT_POWER_STARS = re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])")
_SINGLE_BRACED = re.compile(r"(?<![\\a-zA-Z}_^\]])\{([0-9a-zA-Z.]+)\}(?!\s*\{)")
_FRAC_ARGS = re.compile(r"\\(?:frac|binom)(?=\s*[\da-zA-Z{\\])")
_GREEK = re.compile(r"\\(?:pi|alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![a-zA-Z])")
_SHORT_SCRIPT = re.compile(r"([\^_])\s*([0-9a-zA-Z]|\\[a-zA-Z]+)")
_ROOT_SHORT = re.compile(r"\\sqrt\s*(\[[^\[\]{}]*\])\s*(\d|[a-zA-Z](?![a-zA-Z])|\\pi)")
_SQRT_SHORT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z])|\\pi)")
# The real root, as schools write it; a computer-algebra system takes the complex one.
_NEGATIVE_ROOT = re.compile(r"(\\sqrt\[\d*[13579]\])\{\s*-((?:[^{}+-]|\{[^{}]*\})*)\}")
_POWER_PAREN = re.compile(r"\^\s*\(([^()]*)\)")
_SQRT_PAREN = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_SPACES = re.compile(r"\s+")
_TIGHT = re.compile(
    r"(?<=[^a-zA-Z0-9.]) | (?=[^a-zA-Z0-9.\\])"
    r"| (?=\\(?:c[au]p|in|notin|mid|setminus|subset(?:eq)?)(?![a-z]))|(?<=\\in) (?=\\)"
)
_DOMAIN = re.compile(
    r"[,(]\s*(?:\\text\{\s*(?:where|with|for)(?: any| all)?\s*\})?([a-z])"
    r"(?:\\in|\s\\in)\s*\\mathbb\{Z\}\)?[\s.]*$"
)
_INFIX = re.compile(r"\\(?:choose|over)(?![a-z])")  # reach to the braces around them
_ORDER = re.compile(r"[<>]|\\[lg]e(?![a-z])|\\ne(?![a-z])")
_EDGE = re.compile(r"^[\s,;:=]+|[\s.,;:]+$")


def _brace_frac_arguments(text: str) -> str:
    """``\\frac12``, ``\\frac 59``, ``\\frac{270}7`` and ``\\frac9{19}`` with both braces."""
    out, position = [], 0
    while head := _FRAC_ARGS.search(text, position):
        out.append(text[position : head.start()])
        command = head.group()
        arguments, cursor = [], head.end()
        for _ in range(2):
            while cursor < len(text) and text[cursor] == " ":
                cursor += 1
            if cursor >= len(text):
                break
            if text[cursor] == "{":
                end = _close(text, cursor)
                if end is None:
                    break
                arguments.append(_brace_frac_arguments(text[cursor + 1 : end]))
                cursor = end + 1
            elif letter := _GREEK.match(text, cursor):
                arguments.append(letter.group())
                cursor = letter.end()
            elif text[cursor].isalnum():
                arguments.append(text[cursor])
                cursor += 1
            else:
                break
        if len(arguments) < 2:
            out.append(command)
            position = head.end()
            continue
        out.append(f"{command}{{{arguments[0].strip()}}}{{{arguments[1].strip()}}}")
        position = cursor
    out.append(text[position:])
    return "".join(out)


def _without_domain(text: str) -> str:
    """``x=\\frac{\\pi}{4}+k\\pi`` without ", k in Z" behind it: k could be nothing else there.

    Beside an inequality the same words are a condition, and stay.
    """
    tail = _DOMAIN.search(text)
    if tail is None or _ORDER.search(text):
        return text
    used = re.search(rf"(?<![a-zA-Z]){tail.group(1)}(?![a-zA-Z])", text[: tail.start()])
    return text[: tail.start()] if used else text


def _close(text: str, start: int) -> int | None:
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "{" and (i == 0 or text[i - 1] != "\\"):
            depth += 1
        elif text[i] == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return i
    return None


@lru_cache(maxsize=16_384)
def canonical(text: str) -> str:
    """The answer in one spelling: dollars, spacing and sizing commands, synonyms removed.

    ``\\text{..}`` spans, degree signs (as ``°``) and ``%`` stay, for the unit rules to see.
    Thousands separators that are marked as such (``10{,}080``, ``10,\\!080``) are joined.
    """
    text = _SPACES.sub(" ", _CONTROL.sub("", text))
    if not text.isascii():
        for script, sign, table in _SCRIPTS:
            text = script.sub(lambda m, s=sign, t=table: f"{s}{{{m.group().translate(t)}}}", text)
        text = text.translate(_UNICODE_TABLE)
    text = spell_out_currency(text)
    text = text.replace("\\$", "").replace("$", " ").replace("€", "").replace("£", "")
    text = _NOT_POWER_STARS.sub("^", text)
    text = _MARKDOWN.sub("", text)
    for pattern, new in _SPELLINGS:
        text = pattern.sub(new, text)
    text = text.replace("\x02", "")
    for _ in range(4):  # inner parentheses first; four levels are more than answers have
        new_text = _SQRT_PAREN.sub(r"\\sqrt{\1}", _POWER_PAREN.sub(r"^{\1}", text))
        if new_text == text:
            break
        text = new_text
    text = _SHORT_SCRIPT.sub(r"\1{\2}", text)
    text = _SQRT_SHORT.sub(r"\\sqrt{\1}", text)
    text = _ROOT_SHORT.sub(r"\\sqrt\1{\2}", text)
    if ("\\frac" in text or "\\binom" in text) and len(text) < 5_000:
        text = _brace_frac_arguments(text)
    text = _SINGLE_BRACED.sub(r"\1", text)
    text = _NEGATIVE_ROOT.sub(r"(-\1{\2})", text)
    text = _SPACES.sub(" ", text)
    text = _without_domain(_TIGHT.sub("", text))
    text = _EDGE.sub("", text)
    while text.startswith("{") and _close(text, 0) == len(text) - 1 and not _INFIX.search(text):
        text = text[1:-1].strip()
    return text


@lru_cache(maxsize=16_384)
def words_key(text: str) -> str:
    """A word answer for comparison: no markup, case, punctuation or parentheses around it."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    text = _SPACES.sub(" ", text.casefold()).strip(" .,;:!\"'")
    choice = re.fullmatch(r"(?:option |choice |answer )?[(\[]?\s*([a-z])\s*[)\]]?\.?", text)
    return choice.group(1) if choice else text.strip("() ")


# --- units behind a number: a missing or unknown unit never counts against an answer, two known
# ones that differ do ---------------------------------------------------------------------------

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
