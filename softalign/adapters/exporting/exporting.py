"""What ``softalign export`` does: an adapter in another place's layout, in a folder that is whole or not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softalign.adapters.exporting.comfyui import write_comfyui_folder
from softalign.adapters.exporting.hub import write_hub_folder
from softalign.adapters.exporting.peers import write_peer_folder
from softalign.adapters.exporting.source import Source
from softalign.artifacts import FileEntry
from softalign.errors import ConfigError
from softalign.store.files import list_files, replacing, require_free_folder

ExportFormat = Literal["hub", "comfyui", "peers"]


@dataclass(frozen=True)
class Exported:
    """A folder that was written; ``notes``: in sentences, what is left out or not known."""

    path: Path
    files: tuple[FileEntry, ...]
    notes: tuple[str, ...]


def export_adapter(source: Source, to: Path, layout: ExportFormat, licence: str | None = None) -> Exported:
    """Write an adapter in a layout.

    Args:
        source: the adapter.
        to: the folder: new or empty.
        layout: whose.
        licence: for the hub's card: the hub's identifier of the adapter's licence.

    Raises:
        ConfigError: the folder is taken, or a licence is named where there is no card for it.
        CompatibilityError: the layout cannot express the adapter.
    """
    if licence is not None and layout != "hub":
        raise ConfigError("Only the hub's card states a licence.", expected="--format hub", found="--license")
    require_free_folder(to)
    with replacing(to) as made:
        if layout == "hub":
            notes = write_hub_folder(source, made, licence)
        elif layout == "comfyui":
            notes = write_comfyui_folder(source, made)
        else:
            notes = write_peer_folder(source, made)
    return Exported(to, list_files(to), notes)
