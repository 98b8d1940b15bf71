"""What a shell completes on the command line: recipes, and the fields that ``--set`` takes."""

from __future__ import annotations

from pathlib import Path


def recipe_words(incomplete: str) -> list[str]:
    """Return the recipes of the package and the YAML files whose name or path begins so."""
    from softalign.config.loading import recipe_names

    return _named_or_file(incomplete, recipe_names())


def study_words(incomplete: str) -> list[str]:
    """Return the studies of the package and the YAML files likewise."""
    from softalign.study.loading import study_names

    return _named_or_file(incomplete, study_names())


def _named_or_file(incomplete: str, names: tuple[str, ...]) -> list[str]:
    folder = Path(incomplete[: incomplete.rindex("/") + 1]) if "/" in incomplete else Path()
    found = [str(path) + ("/" if path.is_dir() else "") for path in folder.glob("*") if _may_lead_to_a_recipe(path)]
    return [word for word in (*names, *sorted(found)) if word.startswith(incomplete)]


def override_words(incomplete: str) -> list[str]:
    """Return the fields (``section.field=``) and sections (``section.``) that begin so, one level at a time."""
    from softalign.config.recipe import Recipe
    from softalign.problems import field_paths

    paths = list(field_paths(Recipe))
    sections = {path.rpartition(".")[0] for path in paths}
    level = incomplete.count(".")
    words = (f"{path}." if path in sections else f"{path}=" for path in paths if path.count(".") == level)
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]


def _may_lead_to_a_recipe(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix in {".yaml", ".yml"})
