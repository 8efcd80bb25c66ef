"""The mini world's tokenizer: an ordinary Hugging Face fast tokenizer with a chat template."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sgpo.mini.text import vocabulary

PAD, UNKNOWN, USER, ASSISTANT, END = SPECIALS = (
    "<|pad|>",
    "<|unk|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('the mini template knows the roles user and assistant only') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of fewer than 100 tokens; digits are single tokens.

    Tokens carry their leading space and decoding only concatenates, so ``decode(encode(x)) == x``
    for every text of the world. ``eos`` is ``<|end|>``, which closes a turn; ``pad`` is another
    token. Text from outside the world has no tokens and is dropped.

    Every token is an added token over an empty BPE model: ``AutoTokenizer`` rebuilds model,
    pre-tokenizer and decoder of any checkpoint whose ``model_type`` is ``qwen2``, and added tokens
    are what it leaves as saved.
    """
    backend = Tokenizer(models.BPE(vocab={}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in vocabulary()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
