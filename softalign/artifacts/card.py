"""What a comparison keeps for the card of the adapter: pictures, and what changed in the data."""

from __future__ import annotations

from softalign.artifacts.frozen import Frozen

PICTURES_FILENAME = "pictures.json"
DATA_CHANGE_FILENAME = "data_change.json"


class PictureRow(Frozen):
    """One prompt in the sheet: so many images of each arm, and how many of them are right."""

    tag: str
    prompt: str
    num_images: int
    num_correct_base: int
    num_correct_adapter: int


class CardPictures(Frozen):
    """The sheet: a row for each prompt, on the left the base's images, on the right the adapter's from the same noise.

    Attributes:
        image: the sheet's file name.
    """

    image: str
    rows: tuple[PictureRow, ...]


class DataChange(Frozen):
    """How the images and captions of a dataset differ from those of the version before.

    Attributes:
        before: the version, ``NAME/VERSION``.
        is_known: whether its dataset was there to be looked at; else all counts are 0.
        is_same: whether it is the same dataset.
        num_recaptioned: images in both with other captions.
    """

    before: str
    is_known: bool
    is_same: bool
    num_images_before: int = 0
    num_images: int = 0
    num_added: int = 0
    num_removed: int = 0
    num_recaptioned: int = 0
