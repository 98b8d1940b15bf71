"""How an answer may be spelled, and with which token each spelling begins: as GenEval 2's authors count them.

Their judge is asked for one word, and the probability of an answer is the sum over the first tokens of its spellings:
in lower case and capitalised, with and without a space in front, numbers also as digits.
"""

from __future__ import annotations

from typing import Any

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Their places are their digits."""


def spellings(answer: str) -> tuple[str, ...]:
    """Return how an answer may be spelled: "yes", "Yes", " yes", " Yes"; "two", ..., "2", " 2"."""
    word = answer.strip().lower()
    words = [word, word.capitalize()]
    if word in NUMBERS:
        words.append(str(NUMBERS.index(word)))
    return (*words, *(f" {one}" for one in words))


def first_tokens(tokenizer: Any, answer: str) -> tuple[int, ...]:
    """Return the tokens that the spellings of an answer begin with, each once: a probability counts once."""
    begins = (tokenizer.encode(text, add_special_tokens=False)[0] for text in spellings(answer))
    return tuple(dict.fromkeys(begins))
