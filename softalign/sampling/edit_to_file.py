"""A picture edited into a file: what ``softalign edit`` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from softalign.errors import ConfigError
from softalign.sampling.chosen_model import choose_model, load_model
from softalign.sampling.flow_edit import FlowEditSettings
from softalign.sampling.image_editing import edited, read_picture, require_flow
from softalign.sampling.image_facts import EditedImage
from softalign.sampling.prompt_files import require_texts
from softalign.sampling.sampling import png_bytes
from softalign.sampling.written_before import PlannedFile, kept_files, refuse_foreign
from softalign.store.files import require_folder_place, sha256_of_file, write_atomically


@dataclass(frozen=True)
class EditRequest:
    """What is edited, with what, into which file.

    Attributes:
        image: the picture's file.
        source_prompt: what it shows.
        target_prompt: what it shall show.
        out: the PNG that is made.
        adapter: what ``load_soft_tokens`` takes, or ``none``.
        base: another base model than the adapter's, or the one without an adapter.
        scale: strength of the tokens.
        resolution_px: see ``edit_image``.
        is_forced: accept a base model that the adapter does not know.
        settings: FlowEdit's numbers.
    """

    image: Path
    source_prompt: str
    target_prompt: str
    out: Path
    adapter: str
    base: str | None
    scale: float
    resolution_px: int | None
    is_forced: bool
    settings: FlowEditSettings


def edit_to_file(request: EditRequest, *, is_overwriting: bool = False) -> bool:
    """Write the edited picture; return False where it is there already, from the same request.

    Raises:
        ConfigError: ``out`` is no PNG or the picture itself, another image lies there, or see ``edit_image``.
        CompatibilityError: the model predicts noise, or is not the adapter's.
        DataError, MissingInputError: the file is no picture; there is none.
    """
    picture = read_picture(request.image)
    _require_place(request.image, request.out)
    require_texts((request.source_prompt, request.target_prompt))
    if not is_overwriting:
        refuse_foreign([request.out], request.out.parent)
    chosen = choose_model(request.adapter, request.base, embedded_family="sd3")
    require_flow(chosen.base.family)
    facts = EditedImage(
        image_sha256=sha256_of_file(request.image),
        source_prompt=request.source_prompt,
        target_prompt=request.target_prompt,
        resolution_px=request.resolution_px,
        **asdict(request.settings),
        **chosen.facts(request.scale),
    )
    if not is_overwriting and kept_files([PlannedFile(request.out, facts)], request.out.parent):
        return False
    backbone = load_model(chosen, request.scale, is_forced=request.is_forced).backbone
    prompts = (request.source_prompt, request.target_prompt)
    made = edited(backbone, picture, *prompts, request.settings, request.resolution_px)
    write_atomically(request.out, png_bytes(np.asarray(made), facts.to_png_info()))
    return True


def _require_place(image: Path, out: Path) -> None:
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ConfigError("The edited picture cannot be written there.", expected="a .png file", found=str(out))
    if out.exists() and out.samefile(image):
        raise ConfigError("The edit would replace the picture itself.", found=str(out), fix="name another with --out")
    require_folder_place(out.parent)
