"""The words of captions that carry a fact GenEval asks for: objects, colours, counts and positions, found in free text.

Two vocabularies: GenEval's official words, and the embedded world's (its shapes are the objects there). Positions are
the same in both, and so are counts: two to five. No torch: captions are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from softalign.data.captions.objects import OBJECT_BY_NAME, OBJECTS
from softalign.geneval.prompts import COLORS, POSITIONS
from softalign.shapes.captions import COUNT_WORDS
from softalign.shapes.captions import plural as geneval_plural
from softalign.shapes.scenes import COLORS as WORLD_COLORS
from softalign.shapes.scenes import SHAPES

COUNTS: Final = tuple(COUNT_WORDS.values())
"""The number words that are edited: those of the embedded world, of which GenEval's are the first three."""
OPPOSITES: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
"""The word of a position that is certainly false where the first is true: "left of" and "above" can hold together."""
ARTICLES: Final = frozenset({"a", "an", "the"})
NUMBERS: Final = frozenset("one six seven eight nine ten eleven twelve".split()) | frozenset(COUNTS)
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_MAX_NAME_WORDS = 2


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a caption: in lower case, with its place in the text and whether only a space is before it."""

    word: str
    start: int
    end: int
    is_joined: bool


@dataclass(frozen=True, slots=True)
class Noun:
    """An object named by the tokens ``first`` to ``last``; ``is_plural`` is None where both forms are equal."""

    name: str
    is_plural: bool | None
    first: int
    last: int


@cache
def objects_like(name: str) -> tuple[str, ...]:
    """Return the objects of the same kind (COCO's supercategory; a person's are the animals), without itself."""
    kind = "animal" if name == "person" else OBJECT_BY_NAME[name].kind
    return tuple(other.name for other in OBJECTS if other.kind == kind and other.name != name)


def colors_beside(nouns: tuple[Noun, ...]) -> tuple[str, ...]:
    """Return the colours of the vocabulary that a caption with these objects belongs to."""
    is_world = bool(nouns) and all(noun.name in SHAPES for noun in nouns)
    return WORLD_COLORS if is_world else COLORS


def tokens_of(text: str) -> tuple[Token, ...]:
    """Return the words of a text; hyphens and apostrophes stay inside them ("two-story", "dog's")."""
    tokens: list[Token] = []
    for match in _WORD.finditer(text):
        gap = text[tokens[-1].end : match.start()] if tokens else ""
        tokens.append(Token(match.group().lower(), match.start(), match.end(), bool(tokens) and gap.isspace()))
    return tuple(tokens)


def plural_of(name: str) -> str:
    """Return an object's English plural: "benches", "knives", "skis"."""
    return OBJECT_BY_NAME[name].plural


def nouns_of(tokens: tuple[Token, ...]) -> tuple[Noun, ...]:
    """Return the objects that are named, longest names first ("hot dog" is no dog); a colouring "orange" is none."""
    found: list[Noun] = []
    place = 0
    while place < len(tokens):
        noun = _noun_at(tokens, place)
        if noun is not None and not (noun.name == "orange" and is_color(tokens, place)):
            found.append(noun)
            place = noun.last
        place += 1
    return tuple(found)


def is_color(tokens: tuple[Token, ...], place: int) -> bool:
    """Return whether a word is a colour; "orange" is one where something follows that it can colour."""
    word = tokens[place].word
    if word != "orange":
        return word in COLORS
    following = [token.word for token in joined_after(tokens, place)[:2]]
    if following[:1] == ["and"]:
        return len(following) == 2 and following[1] in COLORS
    return bool(following) and following[0] not in ARTICLES and not ends_a_phrase(following[0])


def joined_after(tokens: tuple[Token, ...], place: int) -> tuple[Token, ...]:
    """Return the words after a place, up to the next punctuation."""
    end = place + 1
    while end < len(tokens) and tokens[end].is_joined:
        end += 1
    return tokens[place + 1 : end]


_AFTER_A_PHRASE: Final = frozenset(
    """and or with on in at near next beside by behind under over above below left right inside outside against from to
    into while that which who is are has have was were sits stands""".split()
)


def ends_a_phrase(word: str) -> bool:
    """Return whether a word says that the noun before it is the last of its phrase ("bus left of", not "bus stop").

    Prepositions, verbs of being, and participles ("sitting", "parked"); "of" is left out: a cup of coffee is not a cup.
    """
    return word in _AFTER_A_PHRASE or word.endswith("ing") or (word.endswith("ed") and word not in {"red", "bed"})


@cache
def _lexicon() -> dict[tuple[str, ...], tuple[str, bool | None]]:
    """Return which object a word or two name, and whether in the plural; GenEval's plurals count beside the English."""
    forms: dict[tuple[str, ...], tuple[str, bool | None]] = {}
    for entry in OBJECTS:
        for plural in (geneval_plural(entry.name), entry.plural):
            forms[tuple(plural.split())] = (entry.name, None if plural == entry.name else True)
        forms.setdefault(tuple(entry.name.split()), (entry.name, False))
    return forms


def _noun_at(tokens: tuple[Token, ...], first: int) -> Noun | None:
    for length in range(_MAX_NAME_WORDS, 0, -1):
        part = tokens[first : first + length]
        if len(part) < length or not all(token.is_joined for token in part[1:]):
            continue
        entry = _lexicon().get(tuple(token.word for token in part))
        if entry is not None:
            return Noun(*entry, first, first + length - 1)
    return None


def position_at(tokens: tuple[Token, ...], place: int) -> bool:
    """Return whether a position of GenEval begins at a word: "above", "below", "left of" or "right of"."""
    words = [token.word for token in tokens[place : place + 2]]
    return words[0] in POSITIONS or " ".join(words) in POSITIONS
