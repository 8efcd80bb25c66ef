"""Surface text and tokenizer: what is written, cut and read back."""

import random
from collections import Counter

import math_verify
import pytest
from transformers import AutoTokenizer

from sgpo.mini.models import VOCABULARY_ROWS, build_tokenizer, model_spec
from sgpo.mini.problems import TYPES, Plan, Task, slot_distribution
from sgpo.mini.regime import MAX_TOKENS
from sgpo.mini.suites import random_task
from sgpo.mini.text import (
    TOKEN_CLASSES,
    boxed_answer,
    derivation_pieces,
    is_right,
    pretraining_example,
    question_pieces,
    split_pieces,
    strategy_pieces,
    token_classes,
)

TASK = Task("Aldric", (3, 1, 4))
COMPOSED = Task("Garek", (5,), TASK)
PLAN = Plan("rotated", "sevenfold", "decrease")


@pytest.fixture(scope="module", params=["qwen-s", "llama-s"])
def tokenizer(request, tmp_path_factory):
    """As a user loads it: beside a model configuration, which AutoTokenizer heeds."""
    directory = tmp_path_factory.mktemp(request.param)
    model_spec(request.param).config().save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def _texts(count):
    rng = random.Random(1)
    for i in range(count):
        task = random_task(rng, 1 + i % 6, "train")
        yield from pretraining_example(task, bool(i % 2), rng)


def test_derivation_reads_as_worked_by_hand():
    assert "".join(derivation_pieces(TASK, [PLAN])) == (
        "Order Aldric rotated: 143\nCombine sevenfold: 1489310\nFinish decrease \\boxed{(8,9)}"
    )


def test_composition_is_worked_inside_first():
    assert "".join(question_pieces(COMPOSED)) == (
        "Find the Aldric pair: 314 and then the Garek pair: 5"
    )
    plans = [PLAN, Plan("swapped", "sum", "triple")]
    assert "".join(derivation_pieces(COMPOSED, plans)) == (
        "Order Aldric rotated: 143\nCombine sevenfold: 1489310\nFinish decrease \\boxed{(8,9)}\n"
        "Order Garek swapped: 859\nCombine sum: 8553992\nFinish triple \\boxed{(9,6)}"
    )


def test_a_full_gap_leaves_the_choices_and_the_last_two_values():
    pieces = derivation_pieces(TASK, [PLAN], gap=1.0, rng=random.Random(0))
    assert "".join(pieces) == (
        "Order Aldric rotated\nCombine sevenfold: 489310\nFinish decrease \\boxed{(8,9)}"
    )


def test_a_guess_ends_the_text_where_it_is_made():
    text = "".join(derivation_pieces(TASK, [PLAN], guess_at=1, guess=(4, 4)))
    assert text == "Order Aldric rotated: 143\nGuess \\boxed{(4,4)}"
    assert "".join(derivation_pieces(TASK, [PLAN], guess_at=0)) == "Guess \\boxed{(0,0)}"


def test_strategy_has_three_parts_and_no_digit():
    text = "".join(strategy_pieces(["Aldric"], [PLAN.choices]))
    assert text == (
        "Type Aldric\nStrategy rotated then sevenfold then decrease\n"
        "Steps order then combine then finish"
    )


def test_saved_tokenizer_cuts_every_text_into_its_pieces_and_back(tokenizer):
    for pieces in _texts(300):
        text = "".join(pieces)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == pieces == split_pieces(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_box_comes_out_verbatim_and_digits_are_single_tokens(tokenizer):
    ids = tokenizer("Guess \\boxed{(3,7)}", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "Guess \\boxed{(3,7)}"
    assert tokenizer.convert_ids_to_tokens(ids) == ["Guess", " \\boxed{(", "3", ",", "7", ")}"]
    assert len(tokenizer) == VOCABULARY_ROWS <= 160
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("Find the elephant")["input_ids"]) == "Find the"


def test_chat_template_marks_turns_and_refuses_other_roles(tokenizer):
    turn = {"role": "user", "content": "Find the Aldric pair: 314"}
    text = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    assert text == "<|user|>Find the Aldric pair: 314<|end|><|assistant|>"
    with pytest.raises(Exception, match="user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}])


def test_token_classes_of_a_styled_guess():
    text = "Following the strategy\nOrder Aldric rotated: 143\nGuess \\boxed{(4,4)}"
    classes = token_classes(split_pieces(text))
    assert classes[:4] == ["style"] * 4
    assert classes[4:] == (
        ["commitment", "routine", "choice"] + ["routine"] * 5 + ["commitment"] + ["routine"] * 5
    )
    assert set(classes) == set(TOKEN_CLASSES)


def test_boxed_answer_is_the_last_closed_box():
    text = "Guess \\boxed{(1,2)} \\boxed{(3,4)} \\boxed{(5,"
    assert boxed_answer(text) == "(3,4)"
    assert boxed_answer("Order Aldric") is None
    assert is_right(text, "(3,4)") and not is_right(text, "(1,2)")


def _examples(kind, guided, count):
    rng = random.Random(7)
    return [
        "".join(pretraining_example(Task(kind, (3, 1, 4)), guided, rng)[1]) for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["Aldric", "Dovan"])
def test_unguided_text_follows_the_priors(kind):
    count = 4000
    texts = _examples(kind, False, count)
    orders = Counter(t.split()[2].rstrip(":") for t in texts if t.startswith("Order"))
    written = sum(orders.values())
    assert written / count == pytest.approx(0.87, abs=0.025)  # 4 standard deviations: 0.021
    for option, p in slot_distribution(kind, 0).items():
        assert orders[option] / written == pytest.approx(p, abs=0.035)
    assert not any(t.startswith("Following") for t in texts)


def test_guided_text_follows_the_prompt_and_not_the_type():
    rng = random.Random(3)
    followed, styled, count = 0, 0, 3000
    for _ in range(count):
        user, completion = pretraining_example(Task("Aldric", (3, 1, 4)), True, rng)
        text = "".join(completion)
        styled += text.startswith("Following the strategy\n")
        hinted = "".join(user).split("\n")[1].split()[1]
        followed += f"Order Aldric {hinted}:" in text
    # continue 0.97; a named choice (0.95 of them) is made with 0.95 + 0.05/4
    assert followed / count == pytest.approx(0.97 * 0.95 * 0.9625, abs=0.025)
    assert styled / count == pytest.approx(0.3, abs=0.035)


def test_guesses_in_the_text_are_blind():
    rng = random.Random(11)
    pairs = Counter()
    while pairs.total() < 20000:
        text = "".join(pretraining_example(TASK, False, rng)[1])
        if "Guess" in text:
            pairs[boxed_answer(text)] += 1
    assert pairs["(8,9)"] / pairs.total() == pytest.approx(0.01, abs=0.003)  # the right answer
    assert len(pairs) == 100


def test_every_type_is_a_token(tokenizer):
    for t in TYPES:
        assert len(tokenizer(f" {t.name}", add_special_tokens=False)["input_ids"]) == 1


def test_no_text_outgrows_the_token_budget():
    rng = random.Random(2)
    lengths = {level: 0 for level in range(1, 7)}
    for _ in range(300):
        for level in lengths:
            completion = pretraining_example(random_task(rng, level, "train"), True, rng)[1]
            lengths[level] = max(lengths[level], len(completion) + 1)  # with the end token
    # n digits: order n + 5, combine 3n + 2, finish 7, end 1, style 4
    assert [lengths[level] for level in (1, 2, 3)] == [4 * n + 19 for n in (3, 4, 5)]
    # two lists of 5, and a line end between them
    assert lengths[6] == max(lengths.values()) == 2 * (4 * 5 + 14) + 1 + 1 + 4 < MAX_TOKENS


@pytest.mark.parametrize(
    ("gold", "expected"), [("(8,9)", True), ("(9,8)", False), ("(8,0)", False)]
)
def test_math_verify_agrees_with_the_worlds_own_verdict(gold, expected):
    text = "".join(derivation_pieces(TASK, [PLAN]))
    answer, target = (math_verify.parse(t) for t in (text, f"\\boxed{{{gold}}}"))
    assert math_verify.verify(target, answer) is expected
    assert is_right(text, gold) is expected
