"""``softalign init``: look, report, write a recipe that ``softalign plan`` accepts."""

from __future__ import annotations

from pathlib import Path

from softalign.artifacts import Family, Frozen
from softalign.config.loading import load_recipe
from softalign.data.drafting.recipe_text import RESOLUTIONS, recipe_name, recipe_text
from softalign.data.drafting.records import Found, FoundSource, SourceDraft
from softalign.data.drafting.survey import survey
from softalign.errors import ConfigError
from softalign.store.files import write_atomically


class Draft(Frozen):
    """A recipe that was written, and what it was written from."""

    recipe: str
    family: Family
    found: Found
    problems: tuple[str, ...]

    def to_text(self) -> str:
        """Return the report for people."""
        lines = [line for source in self.found.sources for line in _report(source)]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.found.notes]
        if self.found.alternatives:
            lines.append(f"other readings ({len(self.found.alternatives)}) stand as comments in the recipe:")
            lines += [
                f"  {other.why}: {other.source.table}, {_place(other.source)}" for other in self.found.alternatives
            ]
        return "\n".join(
            [*lines, "", f"wrote {self.recipe} (family {self.family}); next: softalign plan {self.recipe}"]
        )


def draft_recipe(place: Path, out: Path, family: Family, images: Path | None, *, is_forced: bool) -> Draft:
    """Write a recipe for what lies at a place, and return what was found.

    Args:
        place: a folder, or a captions table.
        out: the recipe's file.
        family: of the base model.
        images: the folder of images, where it is not found.
        is_forced: whether a file that is there is replaced.

    Raises:
        ConfigError: ``out`` is there or is no YAML file, or nothing at the place can be used.
        MissingInputError: the place or its images are not there.
        DataError: a table cannot be used.
    """
    _check_out(out, is_forced)
    found = survey(place, images)
    name = recipe_name(place.absolute().name if place.is_dir() else place.stem)
    text = recipe_text(name, found, family, f"softalign init {place}")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("A path here is no UTF-8 text, so no recipe can name it.", where=repr(str(place))) from error
    write_atomically(out, data)
    load_recipe(str(out))
    problems = tuple(problem for source in found.sources for problem in _problems(source, RESOLUTIONS[family]))
    return Draft(recipe=str(out), family=family, found=found, problems=problems)


def _check_out(out: Path, is_forced: bool) -> None:
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError("A recipe is a .yaml or .yml file.", found=str(out), fix="name another file with --out")
    if out.is_dir() or (out.exists() and not is_forced):
        raise ConfigError(
            "This file is already there; nothing was written.",
            where=str(out),
            fix="name another file with --out, or replace it with --force",
        )


def _report(found: FoundSource) -> list[str]:
    look = found.look
    return [
        f"{found.source.type}: {found.source.table}",
        f"  {_place(found.source)}",
        f"  {found.num_images} images, {found.num_captions} captions",
        f"  shorter sides of {look.num_looked_at} images looked at: {look.smallest_side_px} px at least, "
        f"{look.median_side_px} px in the middle",
    ]


def _place(source: SourceDraft) -> str:
    columns = f"columns {source.image_column} and {source.caption_column}, " if source.image_column else ""
    where = f"in {source.images}" if source.images else "behind URLs" if source.allow_urls else "held there"
    return f"{columns}images {where}"


def _problems(found: FoundSource, resolution_px: int) -> list[str]:
    look = found.look
    counted = [
        (found.num_missing, f"of {found.num_images} listed images are not in {found.source.images}"),
        (found.num_without_caption, "listed images have no caption"),
        (found.num_unlisted, f"images in {found.source.images} are not listed"),
        (look.num_unreadable, f"of {look.num_looked_at} images looked at cannot be opened"),
        (look.num_below_min_side, f"of {look.num_looked_at} images looked at are below curation.filters.min_side_px"),
        (
            look.num_too_elongated,
            f"of {look.num_looked_at} images looked at are above curation.filters.max_aspect_ratio",
        ),
    ]
    problems = [f"{number} {text}" for number, text in counted if number]
    if 0 < look.median_side_px < resolution_px:
        problems.append(
            f"more than half of the images have a shorter side below {resolution_px} px (backbone.resolution_px) and "
            "are enlarged"
        )
    return problems
