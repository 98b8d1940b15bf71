"""Texts that too many images are listed with, as crawls have them: they say nothing of any of these images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from softalign.config.curation import FilterConfig
from softalign.data.curation.caption_repairs import meant
from softalign.data.curation.rejections import ItemError
from softalign.data.curation.samples import ListedSample
from softalign.store.read_ahead import map_ahead

NUM_READERS = 4
"""Images read ahead, in threads."""


@dataclass(frozen=True, slots=True)
class OnManyImages:
    """Stands in the place of a caption that more than ``most`` images are listed with; ``raw`` is as it was listed."""

    most: int
    raw: object = field(default="", compare=False)


def mark_repeated_texts(listing: Callable[[], Iterable[ListedSample]], config: FilterConfig) -> Iterator[ListedSample]:
    """Yield a listing's samples, with texts of too many images, whatever the case, replaced by ``OnManyImages``.

    All of them are replaced, the first too. If texts are limited the listing is read twice, and every distinct text is
    held once meanwhile. Where copies of an image are one, it is read a third time if texts are listed too often: until
    it is certain of each whether it is of too many images, those that it is listed with are read.

    Args:
        listing: starts it anew at each call.
        config: says how many are too many.
    """
    most = config.captions.max_images_per_text
    if most is None:
        yield from listing()
        return
    counts: Counter[str] = Counter()
    for sample in listing():
        counts.update(_texts_of(sample, config))
    repeated = {text for text, number in counts.items() if number > most}
    del counts
    if repeated and config.drop_exact_duplicates:
        repeated = _on_many_images(listing, repeated, most, config)
    for sample in listing():
        captions = (OnManyImages(most, raw) if _text_of(raw, config) in repeated else raw for raw in sample.captions)
        yield replace(sample, captions=tuple(captions))


def _on_many_images(
    listing: Callable[[], Iterable[ListedSample]], texts: set[str], most: int, config: FilterConfig
) -> set[str]:
    """Return those of some texts that more than ``most`` images of other bytes are listed with."""
    images: dict[str, set[str]] = {text: set() for text in texts}

    def undecided(sample: ListedSample) -> list[str]:
        return [text for text in _texts_of(sample, config) if text in images and len(images[text]) <= most]

    asked = (sample for sample in listing() if undecided(sample))
    for sample, digest in map_ahead(lambda one: (one, _image_of(one, config)), asked, NUM_READERS):
        for text in undecided(sample):
            images[text].add(digest)
    return {text for text, found in images.items() if len(found) > most}


def _image_of(sample: ListedSample, config: FilterConfig) -> str:
    """Return what tells an image from others: its bytes; of one that cannot be read its place."""
    if sample.flaw is None:
        try:
            return hashlib.sha256(sample.images.read(sample.filename, config.max_file_bytes)).hexdigest()
        except ItemError:
            pass
    return f"{sample.source}/{sample.filename}"


def _texts_of(sample: ListedSample, config: FilterConfig) -> set[str]:
    return {_text_of(raw, config) for raw in sample.captions} - {""}


def _text_of(raw: object, config: FilterConfig) -> str:
    return meant(raw, repair=config.captions.repair)[0].lower()
