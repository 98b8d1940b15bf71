"""A folder that can be uploaded to the Hugging Face hub as it is, and loaded from there or from where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

from softalign.adapters.card import converted_card, model_card
from softalign.adapters.card_metadata import front_matter, is_on_hub, licence_text, without_front_matter
from softalign.adapters.convert import unverified
from softalign.adapters.exporting.source import Source
from softalign.adapters.files import AdapterConfig
from softalign.config.families import is_embedded
from softalign.store.adapter_files import (
    CARD_FILENAME,
    CONFIG_FILENAME,
    EVALUATION_HEADING,
    INITIAL_FOLDER,
    METRICS_FILENAME,
    PICTURES_FOLDER,
    WEIGHTS_FILENAME,
)

MAX_CARD_BYTES = 1_000_000
_SPOKEN_OF = {
    METRICS_FILENAME: f"`{METRICS_FILENAME}`",
    INITIAL_FOLDER: f"`{INITIAL_FOLDER}/`",
    PICTURES_FOLDER: f"]({PICTURES_FOLDER}/",
}
"""What goes along if the card speaks of it, and how it does."""


def write_hub_folder(source: Source, folder: Path, licence: str | None = None) -> tuple[str, ...]:
    """Write weights, configuration, card, and what the card speaks of; return in sentences what is not known.

    The files of the adapter are copied as they are. The card is the adapter's own, with the front matter of now; where
    it has none, it is made of the configuration.

    Args:
        source: the adapter.
        folder: is made.
        licence: the hub's identifier; None: as ``front_matter`` knows it.
    """
    folder.mkdir(parents=True)
    for name in (WEIGHTS_FILENAME, CONFIG_FILENAME):
        shutil.copyfile(source.folder / name, folder / name)
    own = source.folder / CARD_FILENAME
    body = without_front_matter(own.read_text(encoding="utf-8")) if _is_card(own) else _made_anew(source)
    for name, mention in _SPOKEN_OF.items():
        if mention in body:
            _copy(source.folder / name, folder / name)
    body = _with_licence(body, source.config, licence)
    (folder / CARD_FILENAME).write_text(front_matter(source.config, licence) + body, encoding="utf-8")
    return tuple(_unknown(source.config, body, licence))


def _is_card(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MAX_CARD_BYTES


def _made_anew(source: Source) -> str:
    config, name = source.config, source.name
    card = (
        model_card(config, name) if config.converted_from is None else converted_card(config, name, unverified(config))
    )
    return without_front_matter(card)


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target)
    elif path.is_file():
        shutil.copyfile(path, target)


def _with_licence(body: str, config: AdapterConfig, licence: str | None) -> str:
    """Return a card that says the licence that is stated now."""
    known, stated = licence_text(config), licence_text(config, licence)
    if licence is None or stated in body:
        return body
    return body.replace(known, stated) if known in body else f"{body.rstrip()}\n\n{stated}\n"


def _unknown(config: AdapterConfig, body: str, licence: str | None) -> list[str]:
    found = []
    if EVALUATION_HEADING not in body:
        found.append("The card has no scores: none are with the adapter's files. A registered version has them.")
    if _SPOKEN_OF[PICTURES_FOLDER] not in body:
        found.append("The card has no pictures: none are with the adapter's files.")
    if "\nlicense: " not in front_matter(config, licence):
        found.append("The card states no licence: it is not known here. Name it with --license.")
    if not is_on_hub(config.base_model) and not is_embedded(config.base_model):
        found.append(
            f"The base model, {config.base_model}, is not on the hub by this name: say in the card what it is."
        )
    return found
