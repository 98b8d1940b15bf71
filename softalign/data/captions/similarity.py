"""Near-duplicate captions: what is likely true of one's image is likely true of the other's, so it is no negative.

Case, punctuation and articles are ignored; counts, colours, positions and objects are not: captions that differ in one
of these, or in their order, are never duplicates, however many words they share. No torch.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from softalign.data.captions.words import ARTICLES, NUMBERS, OPPOSITES, is_color, nouns_of, tokens_of

_POSITION_WORDS = frozenset(OPPOSITES) | frozenset("over under behind front beside inside outside top bottom".split())


@lru_cache(maxsize=4096)
def normal_form(caption: str) -> tuple[str, ...]:
    """Return a caption's words in lower case, without articles."""
    return tuple(token.word for token in tokens_of(caption) if token.word not in ARTICLES)


@lru_cache(maxsize=4096)
def facts_of(caption: str) -> tuple[str, ...]:
    """Return the counts, colours, positions and objects that a caption names, in its order."""
    tokens = tokens_of(caption)
    words = {
        place: token.word
        for place, token in enumerate(tokens)
        if token.word in NUMBERS | _POSITION_WORDS or token.word.isdigit() or is_color(tokens, place)
    }
    nouns = {noun.first: f"{noun.name} {noun.is_plural}" for noun in nouns_of(tokens)}
    return tuple(fact for _, fact in sorted({**words, **nouns}.items()))


def similarity(one: str, other: str) -> float:
    """Return the Jaccard index of two captions' words and pairs of neighbouring words; 0 if their facts differ."""
    if facts_of(one) != facts_of(other):
        return 0.0
    first, second = _grams(one), _grams(other)
    return len(first & second) / len(first | second) if first or second else 1.0


def are_near_duplicates(one: str, other: str, max_similarity: float) -> bool:
    """Return whether two captions are too alike to be each other's negatives.

    Args:
        one: a caption.
        other: another.
        max_similarity: the largest similarity of a negative; at 1 only captions with equal normal forms are duplicates.
    """
    return normal_form(one) == normal_form(other) or similarity(one, other) > max_similarity


@lru_cache(maxsize=4096)
def _grams(caption: str) -> frozenset[tuple[str, ...]]:
    words = normal_form(caption)
    return frozenset((word,) for word in words) | frozenset(pairwise(words))
