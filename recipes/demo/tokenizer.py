"""The demo pair's tokenizer: a byte-level BPE that splits digits, keeps every byte, and knows the chat roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS, PAD = "<|endoftext|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (EOS, PAD, SYSTEM, USER, ASSISTANT, END)
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterator[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Learn the merges from ``texts``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tok.chat_template = CHAT_TEMPLATE
    return tok


def check_round_trip(tok: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that loses a byte."""
    samples = (
        "def f(x):\n    if x:\n\t\treturn  x\n\n\n",
        "  Zürich — naïve 日本語 🙂\r\n trailing  ",
        'He said, "It\'s 1,234.50 dollars ." , you know !',
        "".join(map(chr, range(32, 127))),
    )
    for text in samples:
        ids = tok(text)["input_ids"]
        if tok.decode(ids) != text:
            raise ValueError(f"the tokenizer does not round-trip {text!r}")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in ``folder``."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
