"""Which images of a published dataset the rows of a table mean, and everywhere these are listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property

from softalign.data.curation.changes import Listing
from softalign.data.curation.dedup import SHOWN_DIGITS, duplicate_of
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import Rejection
from softalign.data.curation.shards import IndexRow

Listings = tuple[Listing, ...]
"""Of one image, the one that the dataset keeps it under first."""


class NamedImages:
    """A dataset's images by key, digest and file name.

    Args:
        dataset: the dataset.
        sources: names of its sources: an image that is not there yet belongs to the only one, or to that which is said.
    """

    def __init__(self, dataset: OpenedDataset, sources: tuple[str, ...]) -> None:
        self._sources, self._name = sources, dataset.manifest.name
        self._by_key: dict[str, Listings] = {}
        self._by_digest: dict[str, list[Listings]] = {}
        self._by_name: dict[str, dict[Listing, None]] = {}
        self._contents: dict[Listing, set[str]] = {}
        self._num_kept = Counter[Listing]()
        lost = [one for one in dataset.rejections() if one.caption_index < 0]
        copies: dict[str, list[Listing]] = {}
        for one in lost:
            self._note(_place_of(one), duplicate_of(one) or f"{one.reason} {one.detail}")
            copies.setdefault(duplicate_of(one), []).append(_place_of(one))
        for placed in dataset.samples():
            row = placed.row
            self._note(_place_of(row), row.image_digest[:SHOWN_DIGITS])
            self._num_kept[_place_of(row)] += 1
            listings = listings_of(row, copies.get(row.image_digest[:SHOWN_DIGITS], ()))
            self._by_key[row.key] = listings
            self._by_digest.setdefault(row.image_digest, []).append(listings)

    def find(self, identifier: str, value: str, source: str, *, is_added: bool) -> Listings | str:
        """Return the listings that a change is of, or why there are none.

        Args:
            identifier: ``key``, ``image_digest``: the image, with all its listings; ``file_name``: that listing alone.
            value: what it is.
            source: of the listing; empty: the only one.
            is_added: a caption is added, also to an image that is not there yet.
        """
        if source and source not in self._sources:
            return f"no source is called {source[:80]!r}, of {', '.join(self._sources)}"
        if identifier == "file_name":
            found = self._by_file(value, source, is_added)
        else:
            found = self._by_content(identifier, value.lower(), source, is_added)
        if isinstance(found, str):
            return found
        shared = [one for one in found if len(self._contents.get(one, ())) > 1 or self._num_kept[one] > 1]
        if shared:
            return (
                f"{shared[0].file_name[:80]!r} is what several images of {shared[0].source} are called: "
                "give them names of their own there first"
            )
        return found

    def _by_file(self, name: str, source: str, is_added: bool) -> Listings | str:
        places = [place for place in self._by_name.get(name, {}) if source in {"", place.source}]
        if not places and is_added:
            places = [Listing(source=one, file_name=name) for one in self._sources if source in {"", one}]
            if len(places) > 1:
                return f"{name[:80]!r} is new: add the column source ({', '.join(self._sources)})"
        if len(places) > 1:
            return f"file_name {name[:80]!r} names several images: add the column source ({_sources_of(places)})"
        return tuple(places) or f"no image of {self._name} has the file_name {name[:80]!r}" + self._similar(name)

    def _by_content(self, identifier: str, value: str, source: str, is_added: bool) -> Listings | str:
        if identifier == "key":
            found = [self._by_key[value]] if value in self._by_key else []
        else:
            found = self._by_digest.get(value, [])
        found = [listings for listings in found if source in {"", *(one.source for one in listings)}]
        if not found:
            return f"no image of {self._name} has the {identifier} {value[:80]!r}" + (f" in {source}" if source else "")
        if len(found) > 1 and is_added:
            return f"{identifier} {value[:80]!r} names several images: name one of them by key"
        return tuple(dict.fromkeys(one for listings in found for one in listings))

    def _similar(self, name: str) -> str:
        """Return the one file that is called so in its folder, as a hint."""
        similar = self._by_last_part.get(_last_part(name), [])
        return f"; {similar[0][:80]!r} is there" if len(similar) == 1 else ""

    @cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._by_name:
            found.setdefault(_last_part(name), []).append(name)
        return found

    def _note(self, place: Listing, content: str) -> None:
        """Note what lies under a name: different contents are different images."""
        self._by_name.setdefault(place.file_name, {})[place] = None
        self._contents.setdefault(place, set()).add(content)


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def listings_of(row: IndexRow, copies: Iterable[Listing] = ()) -> Listings:
    """Return where an image is listed: where it is kept, where each caption is from, and further copies."""
    origins = zip(row.caption_sources, row.caption_files, strict=True)
    merged = (Listing(source=source, file_name=name) for source, name in origins)
    return tuple(dict.fromkeys((_place_of(row), *merged, *copies)))


def _place_of(one: IndexRow | Rejection) -> Listing:
    return Listing(source=one.source, file_name=one.file_name)


def _sources_of(places: Iterable[Listing]) -> str:
    return ", ".join(place.source for place in places)
