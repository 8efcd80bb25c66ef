"""The only place with prompt strings: how a question, with or without a strategy, becomes ids.

One ``PromptSpec`` a model family, used by SFT, every RL method and evaluation alike, so that no
two of them can disagree about a template, a suffix, a begin-of-sequence token or a stop id.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sgpo.core.types import Problem


@dataclass(frozen=True)
class PromptSpec:
    """Fields of the user turn and of the answer that follows it.

    Args:
        name: key in ``PROMPT_SPECS``.
        system: system turn, None for the chat template's own default.
        suffix: appended to every question, e.g. the request for a boxed answer.
        guided: user turn with a strategy; holds ``{strategy}`` and ``{question}``. The strategy
            stands before the problem (arXiv 2606.24064, Section 3).
        prefill: text the assistant turn opens with; part of the prompt, never of the completion.
        end_of_turn: the token string that closes the assistant turn and stops sampling.
        solved: user turn with the expert's solution; holds ``{solution}`` and ``{question}``. Only
            a self-distillation teacher reads it.
    """

    name: str
    system: str | None
    suffix: str
    guided: str
    prefill: str
    end_of_turn: str
    solved: str = "{solution}\n{question}"

    def prompt_ids(
        self,
        tokenizer: PreTrainedTokenizerBase,
        problem: Problem,
        *,
        guided: bool = False,
        solved: bool = False,
    ) -> tuple[int, ...]:
        """Token ids of the prompt of ``problem``, up to where the completion starts.

        Args:
            guided, solved: show the problem's strategy, or the expert's solution; not both.

        Raises:
            ValueError: what is to be shown is not there, or the tokenizer has no chat template.
        """
        assert not (guided and solved)
        question = problem.question + self.suffix
        if guided:
            if not problem.strategy:
                raise ValueError(
                    f"problem {problem.id!r} has no strategy: extract strategies first, or use a "
                    "method that needs none"
                )
            question = self.guided.format(strategy=problem.strategy, question=question)
        if solved:
            if not problem.expert:
                raise ValueError(
                    f"problem {problem.id!r} has no expert trace to show: use data with traces, or "
                    "a method that needs none"
                )
            question = self.solved.format(solution=problem.expert, question=question)
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has no chat template; "
                "use an instruction-tuned checkpoint"
            )
        turns = [{"role": "user", "content": question}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": self.system})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # The template writes its own begin-of-sequence token, if any: never add a second one.
        return tuple(tokenizer(text + self.prefill, add_special_tokens=False)["input_ids"])

    def target_ids(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
        """Token ids of an answer to learn from, closed by the end-of-turn token. A text that
        repeats the prefill (traces that open with ``<think>``) loses that repetition."""
        if self.prefill and answer.startswith(self.prefill):
            answer = answer[len(self.prefill) :]
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return (*ids, self.stop_ids(tokenizer)[0])

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Ids that end a completion: the end of turn first, then the tokenizer's own eos."""
        end = tokenizer.convert_tokens_to_ids(self.end_of_turn)
        if end is None or end == tokenizer.unk_token_id:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} does not know {self.end_of_turn!r}, the end "
                f"of turn of prompt spec {self.name!r}: check that model and prompt spec match"
            )
        ids = [end, tokenizer.eos_token_id]
        return tuple(dict.fromkeys(i for i in ids if i is not None))


_BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_GUIDED = (
    "Here is a strategy for the problem.\n{strategy}\n\n"
    "Solve the problem with its help.\n{question}"
)
_SOLVED = (
    "Here is a worked solution of the problem.\n{solution}\n\n"
    "Solve the problem again, in your own words.\n{question}"
)

PROMPT_SPECS: dict[str, PromptSpec] = {
    spec.name: spec
    for spec in (
        PromptSpec("mini", None, "", "{strategy}\n{question}", "", "<|end|>"),
        PromptSpec("qwen2.5-instruct", None, _BOXED, _GUIDED, "", "<|im_end|>", _SOLVED),
        PromptSpec("llama-3-instruct", None, _BOXED, _GUIDED, "", "<|eot_id|>", _SOLVED),
    )
}
