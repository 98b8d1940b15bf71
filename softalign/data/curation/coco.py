"""Captions files in COCO's layout: a list of images, and a list of annotations that name them by id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from softalign.config.curation import CocoSource
from softalign.data.curation.names import NameRules, shown
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.samples import ListedSample
from softalign.data.curation.tables import CaptionTable, empty_table, kind_of, read_table
from softalign.errors import DataError

_OTHER_ANNOTATIONS = {
    "segments_info": "panoptic segments",
    "keypoints": "keypoints",
    "bbox": "boxes of objects (instances)",
    "category_id": "categories",
}
"""What annotations hold in files that are handed over in place of captions, by a field that tells."""


@dataclass(frozen=True, slots=True)
class CocoReader:
    """A captions file in COCO's layout, which is read whole."""

    source: CocoSource

    def check(self) -> None:
        """Check the file; see ``read_coco``."""
        read_coco(self.source)

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield the samples; see ``sources.SourceReader``."""
        return read_coco(self.source).samples(name, self.source.images_uri, on_number, self.source.http)


def read_coco(source: CocoSource) -> CaptionTable:
    """Return what a COCO file lists for each image.

    An entry that cannot be used is noted as a flaw; captions of images that are not listed are noted by the id.

    Raises:
        MissingInputError: the file is not there.
        DataError: it is not in COCO's layout, or not one annotation holds a caption of a listed image.
    """
    where = source.annotations_uri
    content = _parsed(read_table(where, source.http), where)
    table = CaptionTable(NameRules.of_folder(source.images_uri))
    names = _add_images(table, _entries(content, "images", where))
    annotations = _entries(content, "annotations", where)
    if not any(isinstance(annotation, dict) and "caption" in annotation for annotation in annotations):
        raise _no_captions(annotations, where)
    unknown, num_known = Counter[int | str](), 0
    for index, annotation in enumerate(annotations):
        image_id = _id_of(annotation, "image_id")
        if image_id is None:
            flaw = Flaw("unusable_entry", "no image_id that is a whole number or text")
            table.add_flaw(f"annotations[{index}]", flaw)
        elif image_id not in names:
            unknown[image_id] += 1
        else:
            num_known += 1
            name = names[image_id]
            if name is not None:
                table.add_captions(name, (annotation.get("caption"),))
    if not num_known:
        raise _no_known_image(names, unknown, where)
    for image_id, count in unknown.items():
        table.add_flaw(f"image_id {shown(str(image_id))}", Flaw("unknown_image", f"captions: {count}"))
    return table


def _parsed(data: bytes, where: str) -> Any:
    encoding = json.detect_encoding(data)
    # bytes that are no UTF-8 become halves of characters: they spoil the name or caption they are in, no more
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    try:
        return json.loads(data.decode(encoding, errors))
    except (ValueError, RecursionError) as error:
        raise DataError(
            "The captions file is not valid JSON.",
            expected="a JSON file in COCO's layout",
            found=f"{kind_of(data)}; {error}",
            where=where,
        ) from error


def _add_images(table: CaptionTable, images: list[Any]) -> dict[int | str, str | None]:
    """List all images and return their names by id; None for an image whose name cannot be used."""
    names: dict[int | str, str | None] = {}
    for index, image in enumerate(images):
        place, image_id = f"images[{index}]", _id_of(image, "id")
        file_name = image.get("file_name") if isinstance(image, dict) else None
        if image_id is None or image_id in names:
            problem = "no id that is a whole number or text" if image_id is None else "an id that is listed before"
            named = f"{place}: {shown(file_name)}" if isinstance(file_name, str) else place
            table.add_flaw(named, Flaw("unusable_entry", problem))
        else:
            names[image_id] = table.add_image(file_name, place)
    return names


def _id_of(entry: Any, name: str) -> int | str | None:
    """Return an entry's id; whole numbers may be written as 7.0, as pandas does."""
    found = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def _entries(content: Any, name: str, where: str) -> list[Any]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            "The captions file is not in COCO's layout.",
            expected=f"an object with a list {name!r}",
            found=_layout_of(content),
            where=where,
            fix="hand over a captions_*.json file of COCO, or JSON lines, an object with file_name and caption (or a "
            "list of captions) each, as a source of type table",
        )
    if not entries:
        raise empty_table(where, name)
    return entries


def _layout_of(content: Any) -> str:
    """Return in words what a JSON file holds that is not in COCO's layout."""
    if isinstance(content, list):
        return f"a list of {len(content)} entries"
    if not isinstance(content, dict):
        return type(content).__name__
    images = content.get("images")
    first = images[0] if isinstance(images, list) and images else None
    kind = "Karpathy's layout, sentences in the images: " if isinstance(first, dict) and "sentences" in first else ""
    return f"{kind}keys {', '.join(sorted(map(str, content))[:10])}"


def _no_captions(annotations: list[Any], where: str) -> DataError:
    first = annotations[0]
    kinds = [words for name, words in _OTHER_ANNOTATIONS.items() if isinstance(first, dict) and name in first]
    found = f"fields {', '.join(map(str, first))}" if isinstance(first, dict) else type(first).__name__
    return DataError(
        "No annotation of the captions file has a caption.",
        expected="annotations with image_id and caption",
        found=f"{kinds[0]}: {found}" if kinds else found,
        where=f"{where}: annotations",
        fix="hand over the captions of these images (COCO names such files captions_*.json)",
    )


def _no_known_image(names: dict[int | str, str | None], unknown: Counter[int | str], where: str) -> DataError:
    listed, named = next(iter(names), None), next(iter(unknown), None)
    are_types_apart = listed is not None and named is not None and type(listed) is not type(named)
    return DataError(
        "No annotation names an image of the captions file.",
        expected="image_ids that are ids of the list images",
        found=f"images such as id {listed!r}, annotations such as image_id {named!r}"[:300],
        where=where,
        fix="write both ids as numbers, or both as text"
        if are_types_apart
        else "hand over images and annotations of the same export",
    )
