"""One spelling for answers: characters, commands, words and mark-up, units, money.

``canonical`` turns the many spellings of one formula into one string in five passes, each over the
whole text: characters, money, rows, commands (a table), words (``\\text{..}`` and bare), structure.
It never changes the mathematics: a base subscript, an exponent, a letter at the end of a product
(``2t``) all stay. Words stay as ``\\text{..}`` for ``split_unit`` and the forms to read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

# --- characters --------------------------------------------------------------------------------

MAX_SAID_CHARS = 600  # longer answers are formulas: their words are not looked into
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "∈": r"\in ", "…": r"\ldots ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "“": '"', "”": '"', "’": "'",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "∖": r"\setminus ", "⁄": "/", "∣": "|", "′": "'", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "∀": r"\forall ", "θ": r"\theta ",
    "Δ": r"\Delta ", "∠": r"\angle ", "≈": r"\approx ", "≡": r"\equiv ", "→": r"\to ",
    "⟨": "(", "⟩": ")", "，": ",", "（": "(", "）": ")", "：": ":", "％": "%", "º": "°",
}  # fmt: skip
_FULL_WIDTH = {chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}  # as CJK keyboards write
_UNICODE_TABLE = str.maketrans(_FULL_WIDTH | _UNICODE)
_SCRIPTS = tuple(
    (re.compile(f"[{raised}]+"), sign, str.maketrans(raised, plain))
    for raised, sign, plain in (
        ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "^", "0123456789+-n"),
        ("₀₁₂₃₄₅₆₇₈₉ₙ", "_", "0123456789n"),
    )
)
_SPACES = re.compile(r"\s+")

# --- money -------------------------------------------------------------------------------------

_SIGN = (
    r"(?:US|U\.S\.|\\text\{\s*US\s*\})?\\\$|\\text\{\s*(?:(?:US)?\\?\$|[€£])\s*\}|[€£]"
    r"|\\pounds(?![a-zA-Z])"
)
_AMOUNT = r"\d{1,3}(?:(?:,|\{,\}|\\!,|,\\!|\\,)\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_MONEY = re.compile(
    rf"(-?)\s*(?:({_SIGN})\s*(?:\\,|\\ )?\s*(-?)\s*({_AMOUNT})|({_AMOUNT})\s*({_SIGN}))\.?"
    r"(?=\s*(?:$|=|\\approx|,?\s*(?:and|or)\b|,\s|\\text|USD|per|/|[a-z]))"
)
_MONEY_SIGNS = ("\\$", "$}", "€", "£", "\\pounds", "dollar")
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds", "\\pounds": "pounds"}
_DOLLARS_AND_CENTS = re.compile(
    r"(\d+)\s*(?:\\text\{)?\s*dollars?\s*\}?\s*(?:,|\\text\{)?\s*and\s*\}?\s*"
    r"(\d{1,2})\s*(?:\\text\{)?\s*cents?\s*\}?"
)


def _amount(found: re.Match[str]) -> str:
    """``\\$1,000`` as ``1000\\text{ dollars}``."""
    if found.group(1) and found.group(3):
        return found.group()
    number = re.sub(r"[^\d.]", "", found.group(4) or found.group(5)).removesuffix(".")
    sign = next(s for s in _CURRENCIES if s in (found.group(2) or found.group(6)))
    return f"{found.group(1) or found.group(3) or ''}{number}\\text{{ {_CURRENCIES[sign]}}}"


def _spell_out_money(text: str) -> str:
    """Every amount of money in ``text`` in words."""
    if len(text) > MAX_SAID_CHARS or not any(sign in text for sign in _MONEY_SIGNS):
        return text
    text = _DOLLARS_AND_CENTS.sub(
        lambda m: f"{m.group(1)}.{int(m.group(2)):02d}\\text{{ dollars}}", text
    )
    return _MONEY.sub(_amount, text)


# --- rows and brackets -------------------------------------------------------------------------

_DELIMITERS = re.compile(
    r"(?<!\\)\\\(|(?<!\\)\\\)|\\\[(?!\d*(?:pt|em|ex|mm)\])|(?<!\\)\\\]"
    r"|\\(?:left|right|middle|mleft|mright|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?(?=\s*[\[\](){}|.\\])"
    r"|\\(?:(?:text)?color|tag\*?|label|hspace\*?)\s*\{[^{}]*\}"
)
_LAYOUT_ROWS = re.compile(
    r"(?:\\\{\s*)?\\begin\{(cases|array|aligned|gathered|split|align\*?|gather\*?|alignedat)\}"
    r"(?:\{[lcr|@ ]*\})?((?:(?!\\(?:begin|end)\{).)*?)\\end\{\1\}",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\(?:\[\w+\])?|\\newline(?![a-zA-Z])|\\cr(?![a-zA-Z])")
_MATRIX_BEGIN = re.compile(r"\\begin\{(?:[pbvBV]|small)?matrix|\\begin\{array|\\substack")
_REVERSED = re.compile(r"\](?=[^][(),]+,[^][(),]+[][)])|(?<=[^][(),])\[(?=\s*(?:$|\\cup|\}))")


def _as_list(found: re.Match[str]) -> str:
    """The rows of an environment that only lays out lines, as a list; a matrix as it is."""
    kind, body = found.groups()
    is_layout = kind != "array" or "=" in body or "&" not in body or "\\text" in body
    if not is_layout:
        return found.group()
    rows = [row.strip(" ,;.") for row in _ROW_END.split(body.replace("&", " "))]
    return ", ".join(row for row in rows if row)


def _lay_out(text: str) -> str:
    """Lines of a display as a list; ``]3,5[`` with the usual brackets."""
    text = _DELIMITERS.sub(" ", text)
    if "\\begin" in text:
        text = _LAYOUT_ROWS.sub(_as_list, text)
    if not _MATRIX_BEGIN.search(text):
        text = re.sub(r"(?<!\\)&", " and ", text) if "&" in text else text
        if "\\\\" in text or "\\newline" in text:
            text = ", ".join(row.strip(" ,;") for row in _ROW_END.split(text) if row.strip(" ,;"))
    return text


# --- commands ----------------------------------------------------------------------------------

_SYNONYMS = {
    "\\frac": "dfrac tfrac cfrac", "\\binom": "dbinom tbinom", "\\le ": "leq leqslant leqq",
    "\\ge ": "geq geqslant geqq", "\\ne ": "neq", "<": "lt", ">": "gt", "\\cup ": "bigcup",
    "\\ldots ": "dots dotsc dotsb cdots ldots", "\\{": "lbrace", "\\}": "rbrace",
    "(": "langle lparen", ")": "rangle rparen", "[": "lbrack", "]": "rbrack",
    "|": "vert lvert rvert", "/": "div", "\\cdot ": "ast times cdot", "\\cap ": "bigcap",
    "\\emptyset ": "varnothing emptyset", "\\setminus ": "backslash smallsetminus",
    " and ": "land wedge &", " or ": "lor vee", "°": "degree degrees deg", ":": "colon",
    "\\Rightarrow ": "implies", "\\to ": "rightarrow", "\\csc": "cosec", "\\tan": "tg",
    "\\arcsin": "asin", "\\arccos": "acos", "\\arctan": "atan arctg", "%": "%", "T": "top intercal",
    "": "! displaystyle textstyle limits nolimits tiny small large Large LARGE huge Huge underline "
        "pounds bigl bigr",
    " ": "quad qquad enspace thinspace thickspace medspace , ; : >", "\\infty ": "infin",
}  # fmt: skip
_COMMANDS = {f"\\{name}": new for new, names in _SYNONYMS.items() for name in names.split()}
_COMMANDS |= {"\\ ": " ", "\\bigl": "", "\\bigr": ""}
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|[^a-zA-Z{}$])")
_OPERATORS = re.compile(r"<=|=<|>=|!=|\\not\s*=|\.\.\.|(?<!\*)\*(?!\*)|~")
_OPERATOR = {
    "<=": "\\le ",
    "=<": "\\le ",
    ">=": "\\ge ",
    "...": "\\ldots ",
    "*": "\\cdot ",
    "~": " ",
}
# Thousands that are marked as such are joined; 312, 123 with a space between is a list.
_MARKED_THOUSANDS = re.compile(r"(?<=\d)\s*(?:\{,\}|\\!\s*,|,\s*\\!)\s*(?:\\!)?\s*(?=\d{3})")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[, ;:]|~|\{\\,\})\d{3})+(?!\d)")
_LISTED_HUNDREDS = re.compile(r"(?<=\d),(?:\s|\\[,; ])+(?=[1-9]\d\d(?!\d))")


def _one_command(found: re.Match[str]) -> str:
    return _COMMANDS.get(found.group(), found.group())


# --- words -------------------------------------------------------------------------------------

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan log ln exp max min gcd lcm "
    "det sqrt pi".split()
)
_FONTS = frozenset(["mathbf", "boldsymbol", "mathit", "bm", "mathsf", "mathcal", "pmb"])
_FONT_GROUP = re.compile(
    r"\\(?:mathbf|boldsymbol|mathit|bm|mathsf|pmb)\s*\{\s*((?:[^{}]|\{[^{}]*\})*?)\s*\}"
)
_UNIT_VECTOR = re.compile(
    r"\\(?:hat|vec|overrightarrow)\s*\{?\s*\\?([ijk])(?:math)?(?![a-z])\s*\}?"
)
_OLD_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])([^{}]*)\}")
_TEXT_GROUP = re.compile(
    r"\\(mbox|mathrm|operatorname\*?|rm|hbox|text(?:bf|rm|it|sf|tt|normal|up|sc)?)(?![a-zA-Z])\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_BARE_ROMAN = re.compile(r"\\(?:rm|mathrm)\s+([a-zA-Z]+)")
_JOINERS = {"and": "and", "or": "or", "as well as": "and", "along with": "and", "&": "and",
            "together with": "and", "u": "\\cup", "union": "\\cup"}  # fmt: skip
_UNIT_POWER_INSIDE = re.compile(r"([a-zA-Z. ]*[a-zA-Z.])\s*\^?\{?([23])\}?")
_CHOICE = re.compile(r"\(?[A-Z][).]+")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_WORD_RUN = re.compile(r"(?:[^\W\d_]{2,}|(?<=\s)a(?=\s))(?:[' .-]+(?:[^\W\d_]{2,}|a(?=\s)))*")
_ROUNDED = re.compile(
    r"\(?\s*(?:rounded |correct |accurate )?(?:off )?to (?:the )?(?:nearest [a-z ]+|"
    r"(?:\d+|one|two|three|four) (?:decimal|significant) (?:places?|digits?|figures?)|\d ?d\.?p\.?)"
    r"\s*\)?|\(\s*(?:approx(?:imately|\.)?|exact(?:ly)?)\s*\)",
    re.IGNORECASE,
)
_PER = r"\\(?:text|mathrm)\s*\{[\s~]*(km|cm|mm|m|mi|ft|kg|g|[lL]|s|h|hr|min|sec|mol|J|N|W)\.?\s*\}"
_QUOTIENT_UNIT = re.compile(
    rf"{_PER}\s*/\s*{_PER}|\\frac\s*\{{\s*{_PER}\s*\}}\s*\{{\s*{_PER}\s*\}}"
)


def _text_group(found: re.Match[str]) -> str:
    """``\\mathrm{~cm^2}``, ``\\mbox{ and }``, ``\\text{5 apples}``: words as ``\\text{..}``, and
    what stands among them (numbers, letters, joining words) as what it is."""
    kind = found.group(1)
    inside = found.group(2).replace("{,}", ",")
    words = _SPACES.sub(" ", inside).strip()
    key = words.casefold()
    if re.fullmatch(r"[a-zA-Z]\.", words):
        return found.group()
    if not words or (_ROUNDED.fullmatch(words) and found.string[: found.start()].strip()):
        return " "
    if key.strip(" ,") in _JOINERS and len(key) > 0:
        return f" {',' if key[0] == ',' else ''} {_JOINERS[key.strip(' ,')]} "
    if key in FUNCTIONS and kind != "text":
        return f"\\{key} "
    before = found.string[: found.start()].rstrip(" \\,;")
    if power := _UNIT_POWER_INSIDE.fullmatch(words):
        if unit_name(power.group(1)):
            return f"\\text{{{power.group(1)}.}}^{{{power.group(2)}}}"
    if len(words) == 1:
        measures = before.endswith(tuple("0123456789}"))
        is_unit = words in "mghslLWJNVCFK" and measures and found.string[found.start() - 1] != "^"
        return f"\\text{{{words}.}}" if is_unit else words if words.isalnum() else f" {words} "
    if _CHOICE.fullmatch(words):
        return f"\\text{{{words}}}"
    if kind.startswith("operatorname") and unit_name(words) is None:
        return f"\\operatorname{{{words.replace(' ', '')}}}"
    if not _TWO_LETTERS.search(words):
        return f" {inside} "
    elsewhere = found.string[: found.start()] + found.string[found.end() :]
    joins = re.search(r"\b(?:and|or)\b", words) and re.search(r"\d", elsewhere)
    if not joins and not re.search(r"[\d=+<>|\\^]|[,;(]", words):
        spaces = [" " if edge == " " else "" for edge in (inside[:1], inside[-1:])]
        return f"\\text{{{spaces[0]}{words}{spaces[1]}}}"
    return _WORD_RUN.sub(_word_run, words).replace("\\text{}", "")


def _word_run(found: re.Match[str]) -> str:
    """Words between numbers: the joining ones bare, the others as ``\\text{..}``."""
    before = found.string[: found.start()]
    if (
        before.endswith(("\\", "\\text{", "_{"))
        or before.endswith("{")
        and "}" not in found.group()
    ):
        return found.group()
    parts = re.split(r"\b(and|or)\b", found.group())
    return "".join(
        f" {part} " if part in ("and", "or") else f"\\text{{{part}}}" if part.strip() else part
        for part in parts
    )


_IN_TEXT = r"\s*(?:\\text\{)?\s*"
_BASE = re.compile(
    rf"(?<=[\dA-Z)])\s*(?:_\s*\{{\s*\(?{_IN_TEXT}(?:base)?\s*\}}?{_IN_TEXT}(\d+|[a-z]+)\s*\}}?\s*\)?"
    rf"\s*\}}|\(?{_IN_TEXT}\(?\s*(?:in )?base\s*\}}?{_IN_TEXT}(\d+|[a-z]+)\s*\)?\s*\}}?\s*\)?)\s*$"
)
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve".split()
BASE_WORDS = {name: i for i, name in enumerate(_BASE_NAMES, 2)} | {"sixteen": 16}
_MULTIPLES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MULTIPLE = re.compile(rf"(?<=\d)\s*(?:\\text\{{\s*|\b)({'|'.join(_MULTIPLES)})\b\s*(\}}?)")
_PERCENT = re.compile(r"\\text\{\s*(?:percent(?:age)?|pct|%)\s*\}|\b(?:percent(?:age)?|pct)\b")
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![a-z])|°)|(?<=[\d}])\s*\^\s*(?:o(?![a-zA-Z])|\{\s*o\s*\})"
    r"|\\text\{\s*degrees?\s*\}|\bdegrees?\b"
)
_INFINITY = re.compile(
    r"\+\s*\\infty|(?<!\\)(?<!\d )\b(?:infinity|infty)\b"
    r"|(?<!\d)(?<!\d )\\text\{\s*(?i:infinity)\s*\}"
)
_CALLED = "|".join(sorted(FUNCTIONS - {"max", "min"}, key=len, reverse=True))
_BARE_FUNCTION = re.compile(
    rf"(?<![\\a-zA-Z])({_CALLED}|cdot|frac|(?:max|min)(?=\s*\())(?=[^a-zA-Z]|$)"
)
_ROUND_CALL = re.compile(
    r"(?<![\\a-zA-Z])(floor|ceil(?:ing)?|abs|log(?:2|10)|C|nCr|binom|choose|acos|asin|atan|cbrt)"
    r"\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)"
)


def _call(found: re.Match[str]) -> str:
    """``floor(x)``, ``log2(5)``, ``C(5,2)`` as mathematics writes them."""
    name, inside = found.groups()
    if name in ("C", "nCr", "binom", "choose"):
        n, _, k = (part.strip() for part in inside.partition(","))
        chosen = k and (n in "nmN" or n.isdigit() and k.isdigit() and int(n[:9]) >= int(k[:9]))
        return f"\\binom{{{n}}}{{{k}}}" if chosen or (name != "C" and k) else found.group()
    return {
        "floor": f"\\lfloor {inside}\\rfloor ", "ceil": f"\\lceil {inside}\\rceil ",
        "ceiling": f"\\lceil {inside}\\rceil ", "abs": f"|{inside}|",
        "log2": f"\\log_{{2}}({inside})", "log10": f"\\log_{{10}}({inside})",
        "acos": f"\\arccos({inside})", "asin": f"\\arcsin({inside})",
        "atan": f"\\arctan({inside})", "cbrt": f"\\sqrt[3]{{{inside}}}",
    }[name]  # fmt: skip


def _spell_words(text: str) -> str:
    """Word mark-up and bare words in one spelling."""
    if "\\" in text:
        text = _OLD_FONT.sub(r"\\text{\1}", text)
        text = _UNIT_VECTOR.sub(r"\1", _FONT_GROUP.sub(r"\1", text))
        text = _BARE_ROMAN.sub(r"\\text{ \1}", text)
        text = re.sub(r"(?<=\d)\^\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", "", text)
        text = _MULTIPLE.sub(lambda m: f"\\cdot 10^{{{_MULTIPLES[m.group(1)]}}}", text)
        text = _QUOTIENT_UNIT.sub(
            lambda m: "\\text{{{}/{}}}".format(*(u for u in m.groups() if u)), text
        )
        for _ in range(2):  # a group in a group
            text = _TEXT_GROUP.sub(_text_group, text)
    text = _BASE.sub(_base, text) if "base" in text or "_" in text else text
    if not _TWO_LETTERS.search(text) and "^" not in text and "(" not in text:
        return text
    text = _MULTIPLE.sub(lambda m: f"\\cdot 10^{{{_MULTIPLES[m.group(1)]}}}", text)
    text = _PERCENT.sub("%", _DEGREES.sub("°", text))
    text = _INFINITY.sub(r"\\infty ", text)
    text = re.sub(r"\b(?:as well as|along with|together with)\b", "and", text)
    text = re.sub(r"(?<=[)\]}])\s*(?:U|\bunion\b)\s*(?=[(\[\\])", r"\\cup ", text)
    return _BARE_FUNCTION.sub(r"\\\1", _ROUND_CALL.sub(_call, text))


def _base(found: re.Match[str]) -> str:
    base = found.group(1) or found.group(2)
    if not base.isdigit() and base not in BASE_WORDS:
        return found.group()
    return f"_{{{base if base.isdigit() else BASE_WORDS[base]}}}"


# --- structure ---------------------------------------------------------------------------------

_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?")
_MODULUS = re.compile(r"\(?\s*\\[pb]?mod(?![a-zA-Z])\s*(\{[^{}]*\}|\d+|[a-zA-Z])\s*\)?")
_CHOSEN = re.compile(
    r"(?<![a-zA-Z\\}])C_\{?(\d{1,3})\}?\^\{?(\d{1,3})\}?"
    r"|(?:\{\})?_\{?(\d{1,3})\}?\s*C_\{?(\d{1,3})\}?(?!\d)"
)
_RECURRING = re.compile(
    r"(?<=[\d.])\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?|(?<=[\d.])\\bar\s*\{?(\d+)\}?"
)
_EXPONENT = re.compile(r"^\s*(-?\d+(?:\.\d+)?)[eE]\+?(-?\d{1,3})\s*$")
_INFIX = re.compile(r"\\(?:choose|over)(?![a-z])")
_INFIX_GROUP = re.compile(
    r"(?<![\\a-zA-Z}_^\]])\{((?:[^{}]|\{[^{}]*\})*?)\s*\\(over|choose)(?![a-z])\s*"
    r"((?:[^{}]|\{[^{}]*\})*)\}"
)
_MARKDOWN = re.compile(r"\*\*|__(?=\S)|`")
_NOT_POWER_STARS = re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])")
_SINGLE_BRACED = re.compile(r"(?<![\\a-zA-Z}_^\]])\{([0-9a-zA-Z.]+)\}(?!\s*\{)")
_FRAC_ARGS = re.compile(r"\\(?:frac|binom)(?=\s*[\da-zA-Z{\\])")
_GREEK = re.compile(r"\\(?:pi|alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![a-zA-Z])")
_SHORT_SCRIPT = re.compile(r"([\^_])\s*([0-9a-zA-Z]|\\[a-zA-Z]+)")
_ROOT_SHORT = re.compile(r"\\sqrt\s*(\[[^\[\]{}]*\])?\s*(\d|[a-zA-Z](?![a-zA-Z])|\\pi)")
# The real root, as schools write it; a computer-algebra system takes the complex one.
_NEGATIVE_ROOT = re.compile(r"(\\sqrt\[\d*[13579]\])\{\s*-((?:[^{}+-]|\{[^{}]*\})*)\}")
_POWER_PAREN = re.compile(r"(\^|\\sqrt)\s*\(([^()]*)\)")
_TIGHT = re.compile(
    r"(?<=[^a-zA-Z0-9.]) | (?=[^a-zA-Z0-9.\\])"
    r"| (?=\\(?:c[au]p|in|notin|mid|setminus|subset(?:eq)?)(?![a-z]))|(?<=\\in) (?=\\)"
)
_EDGE = re.compile(r"^[\s,;:=]+|[\s.,;:]+$")


def _chosen(found: re.Match[str]) -> str:
    """C_7^3 and {}_7C_3 as a binomial coefficient; C_1^2 is something else."""
    n, k = next(pair for pair in (found.groups()[:2], found.groups()[2:]) if pair[0])
    return f"\\binom{{{n}}}{{{k}}}" if int(n) >= int(k) else found.group()


def _recurring(found: re.Match[str]) -> str:
    return f"\\overline{{{''.join(digits or '' for digits in found.groups())}}}"


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


def _spell_structure(text: str) -> str:
    """Braces around every argument, one notation for primes, moduli, choices and periods."""
    text = _PRIMES.sub(lambda m: "'" * m.group(1).count("prime"), text)
    text = _MODULUS.sub(lambda m: f"\\pmod{{{m.group(1).strip('{}')}}}", text)
    text = _RECURRING.sub(_recurring, _CHOSEN.sub(_chosen, text))
    text = _INFIX_GROUP.sub(
        lambda m: (
            f"\\{'frac' if m.group(2) == 'over' else 'binom'}{{{m.group(1)}}}{{{m.group(3)}}}"
        ),
        text,
    )
    text = re.sub(r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", text)
    text = re.sub(r"(?<=\\mathbb\{R\})\s*-\s*(?=\\\{)", r"\\setminus ", text)
    for _ in range(4):  # inner parentheses first; four levels are more than answers have
        new_text = _POWER_PAREN.sub(r"\1{\2}", text)
        if new_text == text:
            break
        text = new_text
    text = _SHORT_SCRIPT.sub(r"\1{\2}", text)
    text = _ROOT_SHORT.sub(lambda m: f"\\sqrt{m.group(1) or ''}{{{m.group(2)}}}", text)
    if ("\\frac" in text or "\\binom" in text) and len(text) < 5_000:
        text = _brace_frac_arguments(text)
    text = _SINGLE_BRACED.sub(r"\1", text)
    return _NEGATIVE_ROOT.sub(r"(-\1{\2})", text)


_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


@lru_cache(maxsize=16_384)
def canonical(text: str) -> str:
    """The answer in one spelling: dollars, spacing and sizing commands, synonyms removed.

    ``\\text{..}`` spans, degree signs (as ``°``) and ``%`` stay, for the unit rules to see.
    Thousands separators that are marked as such (``10{,}080``, ``10,\\!080``) are joined.
    """
    if _NUMBER.fullmatch(text):
        return text
    text = _SPACES.sub(" ", _CONTROL.sub("", text))
    if not text.isascii():
        for script, sign, table in _SCRIPTS:
            text = script.sub(lambda m, s=sign, t=table: f"{s}{{{m.group().translate(t)}}}", text)
        text = text.translate(_UNICODE_TABLE)
    while len(text) > 2 and text[0] == text[-1] == "$" and text[-2] != "\\":
        text = text[1:-1].strip()
    text = _spell_out_money(re.sub(r"(?<!\\)\\\s*$", "", text))
    text = text.replace("\\$", "").replace("$", " ").replace("€", "").replace("£", "")
    text = text.replace("{}^", "^")
    text = _NOT_POWER_STARS.sub("^", text)
    text = _MARKDOWN.sub("", text)
    text = _lay_out(text)
    text = _MARKED_THOUSANDS.sub("", text)
    text = _SPACED_THOUSANDS.sub(lambda m: re.sub(r"\D", "", m.group()), text)
    text = _LISTED_HUNDREDS.sub(";", text)
    text = _OPERATORS.sub(lambda m: _OPERATOR.get(m.group(), "\\ne "), text)
    if "\\" in text:
        text = _COMMAND.sub(_one_command, text)
    text = re.sub(r"\\text\{\s*(?:USD|Rs\.?|[¥₹€£])\s*\}|\b(?:USD|US)\b(?=\s*\d)", " ", text)
    text = _EXPONENT.sub(r"\1\\cdot 10^{\2}", text)
    text = _spell_structure(_spell_words(text))
    text = _TIGHT.sub("", _SPACES.sub(" ", text))
    text = _EDGE.sub("", text)
    if text.startswith("]") or text.endswith("[") or "[\\cup" in text or "\\cup]" in text:
        text = _REVERSED.sub(lambda m: "(" if m.group() == "]" else ")", text)
    while text.startswith("{") and _close(text, 0) == len(text) - 1 and not _INFIX.search(text):
        text = text[1:-1].strip()
    return text


@lru_cache(maxsize=16_384)
def words_key(text: str) -> str:
    """A word answer for comparison: no markup, case, punctuation or parentheses around it."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    text = _SPACES.sub(" ", text.casefold()).strip(" .,;:!\"'")
    choice = re.fullmatch(
        r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?[ :]*)?"
        r"[(\[]?\s*([a-z])\s*[)\]]?\.?",
        text,
    )
    return choice.group(1) if choice else text.strip("() ")


# --- units behind a number ---------------------------------------------------------------------

# Unit words that are dropped when written without \text{}; longer first. Single letters only count
# after a space and a number, because ``3m`` is a product in mathematics. A missing unit never
# counts against an answer, two known ones that differ do, and an unknown word is no unit.
_UNIT_GROUPS: dict[str, str] = {
    "cm": "cm|centimet(?:er|re)s?", "mm": "mm|millimet(?:er|re)s?", "km": "km|kilomet(?:er|re)s?",
    "m": "met(?:er|re)s?", "in": "in|inch(?:es)?", "ft": "ft|feet|foot", "yd": "yards?|yd",
    "mi": "miles?", "kg": "kg|kilograms?", "g": "grams?", "lb": "lbs?", "oz": "ounces?|oz",
    "s": "sec(?:ond)?s?", "min": "min(?:ute)?s?", "h": "hrs?|hours?", "day": "days?",
    "week": "weeks?", "month": "months?", "year": "years?",
    "dollar": "(?:us |u\\.s\\. )?dollars?|usd",
    "cent": "cents?|¢", "l": "lit(?:er|re)s?", "ml": "ml|millilit(?:er|re)s?", "?": "units?",
    "mi/h": "mph|miles per hour|miles an hour", "km/h": "km/h|kph|kmh", "m/s": "m/s|mps",
    "rad": "rad(?:ian)?s?", "am": r"a\.?m", "pm": r"p\.?m", "euro": "euros?|eur",
    "pound": "pounds?", "pence": "pence", "gal": "gallons?|gal", "acre": "acres?", "N": "newtons?",
    "J": "joules?", "W": "watts?", "mol": "mol(?:es)?", "Hz": "hz|hertz", "knot": "knots?",
}  # fmt: skip
_UNIT_NAMES = {name: re.compile(words) for name, words in _UNIT_GROUPS.items()}
_SHORT_UNITS = {"m": "m", "g": "g", "s": "s", "h": "h", "l": "l", "w": "W", "j": "J", "n": "N"}
# What one of a unit is in the first of its family, for 12 cm = 0.12 m.
SIZES = {
    "mm": ("m", "0.001"), "cm": ("m", "0.01"), "m": ("m", "1"), "km": ("m", "1000"),
    "in": ("in", "1"), "ft": ("in", "12"), "yd": ("in", "36"), "mi": ("in", "63360"),
    "s": ("s", "1"), "min": ("s", "60"), "h": ("s", "3600"), "day": ("s", "86400"),
    "week": ("s", "604800"), "g": ("g", "1"), "kg": ("g", "1000"), "oz": ("oz", "1"),
    "lb": ("oz", "16"), "pound": ("oz", "16"), "ml": ("l", "0.001"), "l": ("l", "1"),
    "cent": ("dollar", "0.01"), "dollar": ("dollar", "1"), "m/s": ("m/s", "3.6"),
    "km/h": ("m/s", "1"),
}  # fmt: skip
_QUOTIENT = re.compile(r"(.+?)(?:\s*/\s*|\s+per\s+|\s+an?\s+)(.+)")
_UNIT_POWER = re.compile(r"(square|sq\.?|cubic|cu\.?)\s+(.*)|(.*)\s(squared|cubed)")
_BARE_GROUPS = [words for name, words in _UNIT_GROUPS.items() if name not in "NJW"]
_ANY_UNIT = "|".join(sorted(_BARE_GROUPS, key=len, reverse=True))
_POWER = r"(?:\^\{?(\d)\}?)?"
_TEXT_UNIT = re.compile(rf"\s*\\text\{{([^{{}}]*)\}}{_POWER}[)\s]*$")
_BARE_UNIT = re.compile(
    rf"(?<=[\d)}}.a-zA-Z])\s+((?:square |sq |cubic )?(?:{_ANY_UNIT})(?: ?/ ?| per )(?:{_ANY_UNIT})"
    rf"|(?:square |sq |cubic )?(?:{_ANY_UNIT}))\.?{_POWER}$"
    rf"|(?<=\d)((?:{_ANY_UNIT})){_POWER}$",
    re.IGNORECASE,
)
# "12 ways", "4 red marbles", behind a plain number only.
_BARE_NOUN = re.compile(r"(?<=\d)\s+([a-z]{3,}(?: [a-z]{2,}){0,3})()$")
_DEGREE_NUMBER = re.compile(r"(\d+(?:\.\d+)?)°")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_NOUNS = frozenset((Path(__file__).parent / "counted_nouns.txt").read_text().split())


def unit_name(words: str) -> str | None:
    """A unit's canonical name ("cm", "cm^2"), "?" for one of no size ("units"), or None for words
    that are no unit this module knows."""
    words = words.strip(" .()").casefold()
    if power := _UNIT_POWER.fullmatch(words):
        name = unit_name(power.group(2) or power.group(3) or "")
        order = 2 if (power.group(1) or power.group(4))[0] == "s" else 3
        return name if name in (None, "?") else f"{name}^{order}"
    if words in _SHORT_UNITS:
        return _SHORT_UNITS[words]
    name = next((name for name, rx in _UNIT_NAMES.items() if rx.fullmatch(words)), None)
    if name is None and (quotient := _QUOTIENT.fullmatch(words)):
        parts = [unit_name(part) for part in quotient.groups()]
        name = None if {None, "?"} & set(parts) else "/".join(map(str, parts))
    return name


def are_counted(words: str, problem: str | None) -> bool:
    """Whether words behind a number only say what is counted: nouns of the list beside this file,
    or of the problem."""
    known = [word.strip(".,;:()") for word in words.casefold().split()]
    asked = set(re.findall(r"[a-z]{3,}", problem.casefold())) - _NO_NOUNS if problem else set()
    return all(w in _NOUNS or w in asked or not w for w in known) and known[-1] not in _SMALL


_SMALL = frozenset("of the in a per such for each fourth third fifth sixth with and to".split())
_NO_NOUNS = frozenset(
    "half halves third thirds quarter quarters dozen hundred thousand million times plus minus "
    "over root square squared cube cubed power factorial percent not less more than least most "
    "base".split()
)


def split_unit(text: str) -> tuple[str, str | None, str | None]:
    """``(value, unit, words)`` of a canonical answer: unit is None, a known name or "?" for one of
    no size; words are those behind the value that are no known unit.

    Writing a degree sign is a matter of style in every benchmark used here, so it is a unit like
    others; inside a trigonometric function it is what it means.
    """
    unit: str | None = None
    words: list[str] = []
    while text:
        found = _TEXT_UNIT.search(text) or _BARE_UNIT.search(text) or _BARE_NOUN.search(text)
        if found is None or not text[: found.start()].strip():
            break
        said = found.group(1) or (found.group(3) if found.re is _BARE_UNIT else "") or ""
        name = unit_name(said) if found.re is not _BARE_NOUN else None
        if name is None and said.strip(" ()."):
            words.insert(0, said.strip())
        power = found.group(2) or (found.group(4) if found.re is _BARE_UNIT else None)
        if name is not None:
            unit = f"{name}^{power}" if power and name != "?" else name
        elif power and power not in "23":
            break
        text = text[: found.start()].strip().removesuffix("(").strip()
    if unit and words and words[0].startswith("per ") and (per := unit_name(words[0][4:])):
        unit, words = f"{unit}/{per}", words[1:]
    if "°" in text and _TRIGONOMETRIC.search(text):
        text = _DEGREE_NUMBER.sub(r"(\\frac{\1\\pi}{180})", text)
    elif "°" in text and (text.endswith("°") or re.fullmatch(r"-?\\frac\{[^{}]*°\}\{\d+\}", text)):
        unit = unit or "deg"
    return text.replace("°", ""), unit, " ".join(words) or None
