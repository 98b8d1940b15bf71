"""A real CLIPTokenizer whose merges make every word of the caption grammar one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Final

from transformers import CLIPTokenizer

from softalign.shapes.captions import COUNT_WORDS, plural
from softalign.shapes.scenes import COLORS, SHAPES

MAX_LENGTH: Final = 16
BOS_TOKEN: Final = "<|startoftext|>"  # noqa: S105
EOS_TOKEN: Final = "<|endoftext|>"  # noqa: S105
_END_OF_WORD = "</w>"


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can contain, in a fixed order."""
    grammar = ("a", "an", "photo", "of", "and", "left", "right", "above", "below")
    return (*grammar, *COUNT_WORDS.values(), *COLORS, *SHAPES, *(plural(shape) for shape in SHAPES))


def _merges() -> list[tuple[str, str]]:
    """Return byte-pair merges trained on the vocabulary, each word once, until every word is one symbol."""
    words = [[*word[:-1], word[-1] + _END_OF_WORD] for word in vocabulary()]
    merges = []
    while pairs := Counter(pair for symbols in words for pair in pairwise(symbols)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(symbols, best) for symbols in words]
    return merges


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result


def build_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer: all printable ASCII (so that any text has tokens), the merged words, special tokens."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = _merges()
    entries = [*letters, *(letter + _END_OF_WORD for letter in letters), *(left + right for left, right in merges)]
    tokens = [*dict.fromkeys(entries), BOS_TOKEN, EOS_TOKEN]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_LENGTH,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
    )
