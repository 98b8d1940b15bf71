"""Hard negatives: captions edited in one count, colour, position or object, so that they are false of the image.

The AGSM paper (arXiv 2605.30038) draws negatives from the batch and names edited captions as future work. Here a small
grammar over GenEval's words finds what may be replaced in any caption, and what is risky is left alone: an edit should
be false of the image and grammatical, else it teaches the wrong thing. What other captions of the image say is never
used as a replacement. Edits cannot be checked against the pixels: an object that no caption names may still be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

from softalign.artifacts import digest_of
from softalign.config.training import EDIT_KINDS, CountEdits, EditKind
from softalign.data.captions.words import (
    COUNTS,
    NUMBERS,
    OPPOSITES,
    Noun,
    Token,
    colors_beside,
    ends_a_phrase,
    is_color,
    joined_after,
    nouns_of,
    objects_like,
    plural_of,
    position_at,
    tokens_of,
)
from softalign.geneval.prompts import COLORS, with_article

_INDEFINITE = frozenset({"a", "an"})
_ADJECTIVES = frozenset("big small little large old new young cute tall".split())
_BEFORE_A_SINGULAR = _INDEFINITE | frozenset("the his her their its this that one".split())
_BEFORE_A_PLURAL = NUMBERS | frozenset(
    "the his her their its some several many of with and by on near behind these those".split()
)
_SINGULAR_VERBS = frozenset("is has was does sits stands lies rests looks it its it's itself".split())
_NEGATIONS = frozenset("no not without never none neither nor nobody nothing cannot".split())
_PEOPLE = frozenset(
    """person persons people man men woman women boy boys girl girls guy guys lady ladies male males female females
    child children kid kids baby player players""".split()
)
"""GenEval colours no people, and a colour before such a word is mostly not that of a thing."""


@dataclass(frozen=True, slots=True)
class EditedCaption:
    """A caption with one fact replaced, and which kind of fact."""

    text: str
    kind: EditKind


@dataclass(frozen=True, slots=True)
class _Splice:
    """New text for a stretch of the old one."""

    start: int
    end: int
    text: str


def edited_captions(
    caption: str,
    also_true: Sequence[str] = (),
    kinds: Sequence[EditKind] = EDIT_KINDS,
    counts: CountEdits = "around",
) -> tuple[EditedCaption, ...]:
    """Return all edits of a caption, each false of its image as far as words can tell; a pure function.

    Counts: "two dogs" becomes three, four or five, nearest first; "a dog" becomes two and more, where no verb or other
    caption stands against it; never fewer than two, since two dogs are also a dog. Colours: each to another that is not
    named, and two colours of two objects swapped. Positions: to the opposite alone, since "above" and "left of" can
    both hold. Objects: to another of its kind that is not named. Behind a negation nothing is edited.

    Args:
        caption: any text; what the grammar does not know stays.
        also_true: captions of the same image (its own may be among them): what they name is not used as a replacement.
        kinds: which facts are replaced.
        counts: by which counts: above the true one, below it, or both.
    """
    parsed = _Parsed(caption, tuple(other for other in also_true if other != caption), counts)
    finders = (_counts, _colors, _positions, _objects)
    edits = [
        EditedCaption(_applied(caption, splices), kind)
        for kind, find in zip(EDIT_KINDS, finders, strict=True)
        if kind in kinds
        for splices in find(parsed)
        if all(splice.end <= parsed.negated_from for splice in splices)
    ]
    return tuple({edit.text: edit for edit in edits if edit.text not in {caption, *also_true}}.values())


def drawn_edits(
    caption: str,
    number: int,
    also_true: Sequence[str] = (),
    kinds: Sequence[EditKind] = EDIT_KINDS,
    counts: CountEdits = "around",
) -> tuple[EditedCaption, ...]:
    """Return at most ``number`` edits, the kinds in turn, in an order that depends on the caption alone.

    Within a kind the order is pseudo-random, so that over many captions every replacement is equally frequent: else the
    first colour of the list would become the mark of a negative. Fewer edits are the beginning of more.
    """
    found = edited_captions(caption, also_true, kinds, counts)
    queues: dict[EditKind, list[EditedCaption]] = {}
    for edit in sorted(found, key=lambda edit: digest_of([caption, edit.text])):
        queues.setdefault(edit.kind, []).append(edit)
    turns = [(turn, edit) for edits in queues.values() for turn, edit in enumerate(edits)]
    return tuple(edit for _, edit in sorted(turns, key=lambda pair: pair[0])[:number])


class _Parsed:
    """A caption's words and what may not be used as a replacement in it."""

    def __init__(self, caption: str, also_true: tuple[str, ...], count_edits: CountEdits) -> None:
        self.caption, self.count_edits = caption, count_edits
        self.tokens = tokens_of(caption)
        self.nouns = nouns_of(self.tokens)
        self._others = tuple(tokens_of(other) for other in also_true)
        self.is_shouted = caption.isupper()

    @cached_property
    def negated_from(self) -> int:
        """Where the first negation stands: "no cats on a bed" may be as true as "no dogs on a bed"."""
        negations = (token.start for token in self.tokens if _is_negation(token.word))
        return next(negations, len(self.caption))

    @cached_property
    def named_words(self) -> frozenset[str]:
        return frozenset(token.word for tokens in (self.tokens, *self._others) for token in tokens)

    @cached_property
    def named_objects(self) -> frozenset[str]:
        nouns = (*self.nouns, *(noun for tokens in self._others for noun in nouns_of(tokens)))
        return frozenset(noun.name for noun in nouns)

    @cached_property
    def objects_in_plural_elsewhere(self) -> frozenset[str]:
        nouns = (noun for tokens in self._others for noun in nouns_of(tokens))
        return frozenset(noun.name for noun in nouns if noun.is_plural is not False)

    def replaced(self, first: int, last: int, words: str) -> _Splice:
        """Return the splice of some tokens, in the case of what they replace."""
        start, end = self.tokens[first].start, self.tokens[last].end
        if self.is_shouted:
            words = words.upper()
        elif self.caption[start].isupper():
            words = words[0].upper() + words[1:]
        return _Splice(start, end, words)

    def article_fixed(self, place: int, words: str) -> tuple[_Splice, ...]:
        """Return the splice of "a" or "an" before a place that will begin with other words, if one is there."""
        before = self.before(place)
        if before is None or before.word not in _INDEFINITE:
            return ()
        return (self.replaced(place - 1, place - 1, with_article(words).split()[0]),)

    def before(self, place: int) -> Token | None:
        return self.tokens[place - 1] if self.tokens[place].is_joined else None

    def begins(self, noun: Noun) -> int:
        """Return the place of the first word of the noun's phrase after its determiner."""
        place = noun.first
        while (before := self.before(place)) and (is_color(self.tokens, place - 1) or before.word in _ADJECTIVES):
            place -= 1
        return place

    def ends_a_phrase(self, noun: Noun) -> bool:
        following = joined_after(self.tokens, noun.last)
        return not following or ends_a_phrase(following[0].word)


def _is_negation(word: str) -> bool:
    return word in _NEGATIONS or word.endswith(("n't", "n’t"))


def _counts(parsed: _Parsed) -> Iterator[tuple[_Splice, ...]]:
    for place, token in enumerate(parsed.tokens):
        if token.word in COUNTS and joined_after(parsed.tokens, place):
            for count in _other_counts(parsed, COUNTS.index(token.word)):
                yield (parsed.replaced(place, place, count),)
    for noun in parsed.nouns:
        if _can_be_many(parsed, noun):
            article = parsed.begins(noun) - 1
            for count in _other_counts(parsed, -1):
                yield (
                    parsed.replaced(article, article, count),
                    parsed.replaced(noun.first, noun.last, plural_of(noun.name)),
                )


def _other_counts(parsed: _Parsed, index: int) -> list[str]:
    allowed = {"around": COUNTS, "above": COUNTS[index + 1 :], "below": COUNTS[: max(0, index)]}[parsed.count_edits]
    others = [count for count in allowed if count not in parsed.named_words]
    return sorted(others, key=lambda count: abs(COUNTS.index(count) - index))


def _can_be_many(parsed: _Parsed, noun: Noun) -> bool:
    """Whether "a dog" can become "two dogs": no singular verb follows, and the caption has no "dogs" yet."""
    begin = parsed.begins(noun)
    article = parsed.before(begin)
    verb = parsed.before(begin - 1) if article is not None else None
    following = joined_after(parsed.tokens, noun.last)
    return (
        noun.is_plural is not True
        and article is not None
        and article.word in _INDEFINITE
        and parsed.ends_a_phrase(noun)
        and not (verb is not None and verb.word in {"is", "was"})
        and not any(token.word in _SINGULAR_VERBS for token in following)
        and not (following and following[0].word in {"that", "which", "who"})
        and noun.name not in parsed.objects_in_plural_elsewhere
    )


def _colors(parsed: _Parsed) -> Iterator[tuple[_Splice, ...]]:
    places = [place for place in range(len(parsed.tokens)) if _colors_a_thing(parsed, place)]
    for place in places:
        for color in colors_beside(parsed.nouns):
            if color not in parsed.named_words:
                yield _recolored(parsed, place, color)
    nouns = {noun.first: noun.name for noun in parsed.nouns}
    for one, two in combinations([place for place in places if place + 1 in nouns], 2):
        first, second = parsed.tokens[one].word, parsed.tokens[two].word
        if first != second and nouns[one + 1] != nouns[two + 1]:
            yield (*_recolored(parsed, one, second), *_recolored(parsed, two, first))


def _colors_a_thing(parsed: _Parsed, place: int) -> bool:
    if not is_color(parsed.tokens, place):
        return False
    thing = next((token for token in joined_after(parsed.tokens, place) if token.word not in {*COLORS, "and"}), None)
    return thing is None or thing.word not in _PEOPLE


def _recolored(parsed: _Parsed, place: int, color: str) -> tuple[_Splice, ...]:
    return (*parsed.article_fixed(place, color), parsed.replaced(place, place, color))


def _positions(parsed: _Parsed) -> Iterator[tuple[_Splice, ...]]:
    for place, token in enumerate(parsed.tokens):
        if position_at(parsed.tokens, place):
            yield (parsed.replaced(place, place, OPPOSITES[token.word]),)


def _objects(parsed: _Parsed) -> Iterator[tuple[_Splice, ...]]:
    for noun in parsed.nouns:
        number = _number_of(parsed, noun)
        if number is None or not parsed.ends_a_phrase(noun):
            continue
        for name in objects_like(noun.name):
            if name in parsed.named_objects:
                continue
            words = plural_of(name) if number == "plural" else name
            article = parsed.article_fixed(noun.first, words)
            yield (*article, parsed.replaced(noun.first, noun.last, words))


def _number_of(parsed: _Parsed, noun: Noun) -> Literal["singular", "plural"] | None:
    """Return a noun's number as its determiner says it, or None where the phrase is not understood."""
    begin = parsed.begins(noun)
    before = parsed.before(begin)
    if noun.is_plural is not True and before is not None and before.word in _BEFORE_A_SINGULAR:
        return None if noun.is_plural is None and before.word not in _INDEFINITE else "singular"
    if noun.is_plural is False:
        return None
    is_many = before is not None and before.word in NUMBERS - {"one"}
    if noun.is_plural is None:
        return "plural" if is_many else None
    return "plural" if before is None or before.word in _BEFORE_A_PLURAL else None


def _applied(text: str, splices: tuple[_Splice, ...]) -> str:
    for splice in sorted(splices, key=lambda splice: -splice.start):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text
