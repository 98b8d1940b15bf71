"""Texts that too many images are listed with, as crawls have them: they say nothing of any of these images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from softalign.config.curation import FilterConfig
from softalign.data.curation.caption_repairs import meant
from softalign.data.curation.samples import ListedSample


@dataclass(frozen=True, slots=True)
class OnManyImages:
    """Stands in the place of a caption that more than ``most`` images are listed with."""

    most: int


def mark_repeated_texts(listing: Callable[[], Iterable[ListedSample]], config: FilterConfig) -> Iterator[ListedSample]:
    """Yield a listing's samples, with texts of too many images, whatever the case, replaced by ``OnManyImages``.

    All of them are replaced, the first too. If texts are limited the listing is read twice, and every distinct text is
    held once meanwhile.

    Args:
        listing: starts it anew at each call.
        config: says how many are too many.
    """
    most, repair = config.captions.max_images_per_text, config.captions.repair
    if most is None:
        yield from listing()
        return
    counts: Counter[str] = Counter()
    for sample in listing():
        counts.update({meant(raw, repair=repair)[0].lower() for raw in sample.captions})
    marked, repeated = OnManyImages(most), {text for text, number in counts.items() if text and number > most}
    del counts
    for sample in listing():
        captions = (marked if meant(raw, repair=repair)[0].lower() in repeated else raw for raw in sample.captions)
        yield replace(sample, captions=tuple(captions))
