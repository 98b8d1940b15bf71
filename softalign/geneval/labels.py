"""The names and numbers that detectors give COCO's objects, turned into GenEval's names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from softalign.errors import DataError
from softalign.geneval.prompts import CLASSES

COCO_ALIASES: dict[str, str] = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's labels where GenEval's names differ (same indices)."""
VOC_ALIASES: dict[str, str] = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
"""VOC's labels, which some published configurations have in the place of COCO's."""
_SPELLINGS: dict[str, str] = {
    **COCO_ALIASES,
    **VOC_ALIASES,
    "remote control": "tv remote",
    "plane": "airplane",
    "bike": "bicycle",
    "television": "tv",
    "doughnut": "donut",
    "cellphone": "cell phone",
    "mobile phone": "cell phone",
    "hair dryer": "hair drier",
}
"""COCO's labels where GenEval's names differ, VOC's, and common spellings; blanks and case do not matter."""
_NOT_IN_COCO_91 = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""The numbers of 1..90 that COCO's 80 classes leave out."""
_COCO_91 = tuple(number for number in range(1, 91) if number not in _NOT_IN_COCO_91)
_NUMBERINGS: dict[str, dict[int, str]] = {
    "COCO's 1..90": dict(zip(_COCO_91, CLASSES, strict=True)),
    "0..79": dict(enumerate(CLASSES)),
    "1..80": dict(enumerate(CLASSES, start=1)),
}


def translated(names: Iterable[str], classes: Collection[str], where: str) -> dict[str, str]:
    """Return the name among ``classes`` that each label means.

    Args:
        names: a detector's labels.
        classes: the names that are known: a label that is one of them stays; others are looked for without regard to
            case, blanks, ``_`` and ``-``, then among COCO's and VOC's spellings.
        where: the file, for the error.

    Raises:
        DataError: labels that mean none of them; names all, each with the nearest name that is known.
    """
    known = {_squashed(name): name for name in classes}
    spelled = {_squashed(other): name for other, name in _SPELLINGS.items() if name in classes}
    meant = {
        name: name if name in classes else spelled.get(_squashed(name)) or known.get(_squashed(name))
        for name in dict.fromkeys(names)
    }
    unknown = [name for name, found in meant.items() if found is None]
    if unknown:
        raise DataError(
            f"Detections have unknown classes: {len(unknown)}.",
            expected="GenEval's class names, COCO's or VOC's, or those that a prompt of the set names",
            found="; ".join(_with_nearest(name, {**known, **spelled}) for name in unknown),
            where=where,
            fix="translate the detector's labels to GenEval's names; drop the objects it does not know",
        )
    return {name: found for name, found in meant.items() if found is not None}


def names_of_numbers(numbers: Collection[int], categories: Mapping[int, str], where: str) -> dict[int, str]:
    """Return the class that each category number means.

    Args:
        numbers: all that occur in a file.
        categories: the file's own names; where it has none, the one numbering of COCO that all numbers fit.
        where: the file, for the error.

    Raises:
        DataError: numbers without a name, or that fit several numberings that differ in what they mean.
    """
    if categories:
        fitting = [dict(categories)] if set(numbers) <= set(categories) else []
    else:
        fitting = [names for names in _NUMBERINGS.values() if set(numbers) <= set(names)]
    meanings = [{number: names[number] for number in numbers} for names in fitting]
    if not meanings or any(meaning != meanings[0] for meaning in meanings):
        raise DataError(
            "It is not certain which classes the category numbers mean.",
            expected="numbers of the file's own `categories`" if categories else f"one of {', '.join(_NUMBERINGS)}",
            found=f"{', '.join(map(str, sorted(numbers)[:20]))}, which fit {len(meanings)} of them",
            where=where,
            fix='name the classes: add "categories": [{"id": ..., "name": ...}, ...] to the file, or names as labels',
        )
    return meanings[0]


def _squashed(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def _with_nearest(name: str, known: Mapping[str, str]) -> str:
    near = get_close_matches(_squashed(name), known, n=1, cutoff=0.6)
    return f"{name} (nearest: {known[near[0]]})" if near else name
