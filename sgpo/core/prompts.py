"""The only place with prompt strings: how a question, with or without a strategy, becomes ids.

One ``PromptSpec`` a run, used by SFT, every RL method and evaluation alike, so that no two of them
can disagree about a template, a suffix, a begin-of-sequence token or a stop id. It follows from the
checkpoint (``native_spec``) or is one of the named ones that the paper's runs need.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from sgpo.core.types import Problem

if TYPE_CHECKING:  # settings of methods are listed without it
    from transformers import PreTrainedTokenizerBase

DATE_FORMAT = "%d %b %Y"
_DATE_CODES = (*"aAbBcdDeFGHIjmMpRSTuUVwWxXyY", *(f"-{code}" for code in "demjyHIMS"))
# A new turn or question at the start of a line, behind some text; sampling ends at the plain ones
# (a vLLM server's also where nothing stands before it).
_NEXT_QUESTION = re.compile(
    r"(?<=\S)\s*\n\s*(?:#+ *|\*\*)?(?:(?:Question|Problem|Exercise|Q) *\d*|Human|User) *(?:\*\*)?:"
)
_NEXT_TEXTS = tuple(
    f"\n{word}:" for word in ("Question", "Problem", "Exercise", "Q", "Human", "User")
)


@dataclass(frozen=True)
class PromptSpec:
    """Fields of the user turn and of the answer that follows it.

    Args:
        name: key in ``PROMPT_SPECS``.
        suffix: appended to every question, e.g. the request for a boxed answer.
        guided: user turn with a strategy; holds ``{strategy}`` and ``{question}``, in this order
            (arXiv 2606.24064, Section 3).
        prefill: text the assistant turn opens with (a think prefix); part of the prompt, never of
            the completion.
        end_of_turn: the token string that closes the assistant turn and stops sampling.
        other_stops: further ones that stop it, of the family's generation defaults.
        begin: token string that opens every prompt, exactly once; None: prompts hold none.
        chat: False leaves the chat template out: begin token, question and suffix alone.
        date: what a template that prints today's date is told instead, so that the prompt of a
            run does not change overnight.
        solved: user turn with the expert's solution; holds ``{solution}`` and ``{question}``. Only
            a self-distillation teacher reads it.
        stop_texts: texts that end a completion in evaluation, where no end of turn does.
    """

    name: str
    suffix: str
    guided: str
    prefill: str
    end_of_turn: str
    other_stops: tuple[str, ...] = ()
    begin: str | None = None
    chat: bool = True
    date: str | None = None
    solved: str = "{solution}\n{question}"
    stop_texts: tuple[str, ...] = ()

    def prompt_ids(
        self,
        tokenizer: PreTrainedTokenizerBase,
        problem: Problem,
        *,
        guided: bool = False,
        solved: bool = False,
    ) -> tuple[int, ...]:
        """Token ids of the prompt of ``problem``, up to where the completion starts; ``guided`` or
        ``solved`` shows the problem's strategy or the expert's solution.

        Raises:
            ValueError: what is to be shown is not there; the tokenizer has no chat template; a
                special token stands in the problem's own text; or the begin token does not come
                out exactly once.
        """
        question = self._user_turn(tokenizer, problem, guided, solved)
        # The template writes its own begin token, if any: never let the tokenizer add a second.
        if self.chat:
            turn = {"role": "user", "content": question}
            text = _chat_text(tokenizer, [turn], self.date)
        else:
            text = (self.begin or "") + question
        ids = tuple(tokenizer(text + self.prefill, add_special_tokens=False)["input_ids"])
        if not (self.chat and _opens_turns(tokenizer, text, question)):
            self._check_begin(tokenizer, ids)
        return ids

    def _user_turn(
        self, tokenizer: PreTrainedTokenizerBase, problem: Problem, guided: bool, solved: bool
    ) -> str:
        assert not (guided and solved)
        what = f"problem {problem.id!r}"
        if guided and not problem.strategy:
            raise ValueError(
                f"{what} has no strategy: extract strategies first, or use a method that needs none"
            )
        if solved and not problem.expert:
            raise ValueError(
                f"{what} has no expert trace to show: use data with traces, or a method that needs "
                "none"
            )
        shown = problem.strategy if guided else problem.expert if solved else ""
        for text in (problem.question, shown):
            _refuse_special_tokens(tokenizer, text, what)
        question = problem.question + self.suffix
        if guided:
            return self.guided.format(strategy=shown, question=question)
        return self.solved.format(solution=shown, question=question) if solved else question

    def _check_begin(self, tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> None:
        token = tokenizer.bos_token if self.begin is None else self.begin
        count = ids.count(tokenizer.convert_tokens_to_ids(token)) if token else 0
        if count != (self.begin is not None):
            wanted = "none" if self.begin is None else "exactly one"
            raise ValueError(
                f"prompt spec {self.name!r}: the prompt holds {count} begin tokens {token!r}, "
                f"{wanted} is right; check that tokenizer {tokenizer.name_or_path!r} and prompt "
                "spec match"
            )

    def target_ids(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
        """Token ids of an answer to learn from, closed by the end-of-turn token. A text that
        repeats the prefill (traces that open with ``<think>``) loses that repetition.
        ValueError when a special token stands in it: it would end the answer early."""
        _refuse_special_tokens(tokenizer, answer, "an answer to learn from")
        ids = tokenizer(answer.removeprefix(self.prefill), add_special_tokens=False)["input_ids"]
        return (*ids, self.stop_ids(tokenizer)[0])

    def graded_text(self, completion: str) -> tuple[str, bool]:
        """What the verifier reads of a decoded completion, and whether it was cut.

        The prefill stands in front again: a thought that it opens must be closed for an answer to
        count. Without a chat template nothing tells a base model to stop, and it goes on to pose
        itself the next question: what follows is not an answer to this one.
        """
        found = None if self.chat else _NEXT_QUESTION.search(completion)
        text = completion[: found.start()] if found else completion
        return self.prefill + text, found is not None

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Ids that end a completion: the end of turn first, then the family's other stops and the
        tokenizer's own eos. ValueError for a token that the tokenizer does not know."""
        ids = []
        for token in (self.end_of_turn, *self.other_stops):
            if not _knows(tokenizer, token):
                role = "end of turn" if token == self.end_of_turn else "stop token"
                raise ValueError(
                    f"tokenizer {tokenizer.name_or_path!r} does not know {token!r}, the {role} of "
                    f"prompt spec {self.name!r}: check that model and prompt spec match"
                )
            ids.append(tokenizer.convert_tokens_to_ids(token))
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        return tuple(dict.fromkeys(ids))


def _chat_text(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, str]],
    date: str | None,
    *,
    opened: bool = True,
) -> str:
    """What the chat template makes of ``turns``, the answer's turn ``opened`` or not. A template
    that asks for the date (``date_string``, or the clock itself) is told ``date``."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; "
            "use an instruction-tuned checkpoint"
        )
    told = {}
    if date is not None:
        template = _stopped_clock(date) + tokenizer.get_chat_template()
        told = {"date_string": date, "chat_template": template}
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=opened, **told
    )


@functools.cache
def _stopped_clock(date: str) -> str:
    """What in front of a template makes its ``strftime_now`` say ``date``. As an argument, which
    would be plainer, transformers 5.24 turns the function into a text."""
    day = datetime.strptime(date, DATE_FORMAT)
    told = "".join(f"|replace('%{c}', '{day.strftime('%' + c)}')" for c in _DATE_CODES)
    return "{% macro strftime_now(format) %}{{ format" + told + " }}{% endmacro %}\n"


def _opens_turns(tokenizer: PreTrainedTokenizerBase, text: str, question: str) -> bool:
    """Whether the begin-of-sequence token stands behind ``question`` in ``text`` too: then it opens
    turns (SmolLM2) and says nothing about the sequence."""
    _, _, behind = text.rpartition(question.strip())
    return bool(tokenizer.bos_token) and tokenizer.bos_token in behind


def _knows(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    # Not by comparing with the unknown token's id: Qwen's unknown token is <|endoftext|> itself.
    token_id = tokenizer.convert_tokens_to_ids(token)
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == token


@functools.lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    added = tokenizer.added_tokens_decoder.values()
    texts = sorted((t.content for t in added if t.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def special_token_in(
    tokenizer: PreTrainedTokenizerBase, text: str, *, leading: bool = False
) -> str | None:
    """The first special token that ``text`` spells out (opens with, if ``leading``). Encoded as
    part of a prompt it would become the real token: a problem could close its own turn."""
    pattern = _special_tokens(tokenizer)
    found = pattern and (pattern.match(text) if leading else pattern.search(text))
    return found.group() if found else None


def _refuse_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> None:
    token = special_token_in(tokenizer, text)
    if token is not None:
        raise ValueError(f"{where}: the text spells the special token {token!r}; remove it")


_BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_GUIDED = (
    "Here is a strategy for the problem.\n{strategy}\n\n"
    "Solve the problem with its help.\n{question}"
)
_SOLVED = (
    "Here is a worked solution of the problem.\n{solution}\n\n"
    "Solve the problem again, in your own words.\n{question}"
)

_DATE = "26 Jul 2024"  # Llama 3.1's own fallback; Llama 3.2's template would ask the clock

_QWEN = PromptSpec(
    "qwen2.5-instruct", _BOXED, _GUIDED, "", "<|im_end|>",
    other_stops=("<|endoftext|>",),
    solved=_SOLVED,
)  # fmt: skip
_LLAMA = PromptSpec(
    "llama-3-instruct", _BOXED, _GUIDED, "", "<|eot_id|>",
    other_stops=("<|end_of_text|>", "<|eom_id|>"),
    begin="<|begin_of_text|>",
    solved=_SOLVED,
    date=_DATE,
)  # fmt: skip
_THINK = "<think>\n"  # what the expert traces of the training set open with

PROMPT_SPECS: dict[str, PromptSpec] = {
    spec.name: spec
    for spec in (
        PromptSpec("mini", "", "{strategy}\n{question}", "", "<|end|>"),
        _QWEN,
        replace(_QWEN, name="qwen2.5-instruct-think", prefill=_THINK),
        replace(_QWEN, name="qwen2.5-none", suffix="", chat=False, stop_texts=_NEXT_TEXTS),
        _LLAMA,
        replace(_LLAMA, name="llama-3-instruct-think", prefill=_THINK),
        replace(_LLAMA, name="llama-3-none", suffix="", chat=False, stop_texts=_NEXT_TEXTS),
    )
}
NATIVE = "native"  # the spec that follows from the checkpoint
_NATIVE_SPECS = (_QWEN, _LLAMA)  # what is derived for these families has a name of its own
_MINI_ENTRIES = 1000  # a vocabulary of at most so many entries is the miniature's


def prompt_spec(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> PromptSpec:
    """The spec of a name; ``native`` and ``native:TOKEN`` (end-of-turn token given) are derived
    from ``tokenizer``. ValueError that lists the known ones."""
    if tokenizer is not None and name.partition(":")[0] == NATIVE:
        return native_spec(tokenizer, name.partition(":")[2])
    if name not in PROMPT_SPECS:
        known = ", ".join([*PROMPT_SPECS, NATIVE])
        raise ValueError(f"unknown prompt spec {name!r}: must be one of {known}")
    return PROMPT_SPECS[name]


def native_spec(tokenizer: PreTrainedTokenizerBase, end_of_turn: str = "") -> PromptSpec:
    """The spec that follows from a checkpoint's own chat template, read off what the template
    renders: end-of-turn token (or the ``end_of_turn`` given), begin token, what opens an answer,
    whether it prints the date. Stops are the end of turn and the eos ids of the generation defaults
    beside the tokenizer. Qwen2.5 and Llama 3 give the named spec of the family, others ``native``.

    Raises:
        ValueError: no chat template, one that does not render a question and its answer, or an
            answer that no special token closes.
    """
    mini = PROMPT_SPECS["mini"]
    if len(tokenizer) <= _MINI_ENTRIES and _knows(tokenizer, mini.end_of_turn):
        return mini
    what = f"tokenizer {tokenizer.name_or_path!r}: its chat template"
    question, answer = "What is 6 times 7?", "It is 42."
    asked = [{"role": "user", "content": question}]
    answered = [*asked, {"role": "assistant", "content": answer}]
    try:
        dates = [_chat_text(tokenizer, asked, date) for date in (_DATE, "01 Jan 2001")]
        date = _DATE if dates[0] != dates[1] else None
        prompt, whole = dates[0], _chat_text(tokenizer, answered, date, opened=False)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"{what} does not render a question and its answer ({error})") from error
    if prompt.count(question) != 1 or whole.count(answer) != 1:
        raise ValueError(f"{what} does not render a question and its answer once each")
    before, _, behind = whole.partition(answer)
    end = end_of_turn or special_token_in(tokenizer, behind.strip(), leading=True)
    if end is None:
        raise ValueError(
            f"{what} closes an answer with {behind!r} and no special token; name the token that "
            f"ends an answer with --prompt '{NATIVE}:TOKEN', or one of {', '.join(PROMPT_SPECS)}"
        )
    opens, bos = _opens_turns(tokenizer, prompt, question), tokenizer.bos_token
    begin = bos if bos and prompt.startswith(bos) and not opens else None
    for named in _NATIVE_SPECS:
        if (end, begin, date) == (named.end_of_turn, named.begin, named.date) and not opens:
            return named
    # Some templates leave a part of the answer's opening to the model, or all of it.
    prefill = before.removeprefix(prompt) if before.startswith(prompt) else ""
    return replace(
        _QWEN, name=NATIVE, end_of_turn=end, begin=begin, date=date, prefill=prefill,
        other_stops=tuple(token for token in _default_stops(tokenizer) if token != end),
    )  # fmt: skip


def _default_stops(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The stop tokens of the generation defaults that lie beside the tokenizer."""
    path = Path(tokenizer.name_or_path) / "generation_config.json"
    ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else []
    ids = [ids] if isinstance(ids, int) else ids or []
    return [tokenizer.convert_ids_to_tokens(i) for i in ids]
