"""From a recipe's name or file, and overrides, to a checked ``Recipe``; no key may stand twice in its YAML."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from softalign.config.explained import ExplainedRecipe
from softalign.config.recipe import Recipe
from softalign.config.renamed import drop_other_spelling
from softalign.config.resolving import resolve
from softalign.errors import ConfigError
from softalign.problems import did_you_mean, problems

MAX_VALUES = 100_000
"""A recipe has a hundred values or so; a few lines of references to references can stand for billions."""
_INDENT = 4
_WORDS = {
    r"found character '\t'": "a tab stands where only spaces may; indent with spaces",
    "mapping values are not allowed": "a colon too many, or a line before it without its colon; put quotes around text "
    "that holds a colon",
    "expected ',' or ']'": "a list that begins with [ has no ] or lacks a comma",
    "expected ',' or '}'": "a section that begins with { has no } or lacks a comma",
    "unexpected end of stream": "a text that begins with a quote has no quote at its end",
    "could not find expected ':'": "a name without its colon",
    "expected <block end>": "this line is indented otherwise than those it belongs to",
    "undefined alias": "a * begins the value, which YAML takes for a reference; put quotes around it",
    "found character": "a value begins with a character that YAML keeps for itself; put quotes around it",
    "found unknown escape": "a backslash within double quotes; use single quotes",
    "determine a constructor for the tag": "a ! begins the value, which names a type that a recipe cannot have; put "
    "quotes around it if it is text",
    "but found another document": "a second document begins here (---); a recipe is one",
    "unhashable key": "a name must be plain text",
}
"""What the problems of PyYAML mean for who wrote the text; the first that fits."""


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("softalign") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of that name or YAML file, with ``section.field=value`` overrides applied.

    Args:
        name_or_path: a name from ``recipe_names()`` or the path of a YAML file.
        overrides: values are read as YAML, so ``train.num_steps=10`` is a number.

    Raises:
        ConfigError: no such recipe, not YAML, an unknown field, or a value out of range; all of them are listed.
    """
    return explain_recipe(name_or_path, overrides).recipe


def explain_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> ExplainedRecipe:
    """Return what ``load_recipe`` returns, and where each of its values comes from."""
    text, where = _recipe_text(name_or_path)
    return explain_text(text, where, overrides)


def explain_text(text: str, where: str, overrides: Sequence[str] = ()) -> ExplainedRecipe:
    """Return a recipe given as YAML text, and where each of its values comes from.

    Args:
        text: the YAML.
        where: what errors call it.
        overrides: as of ``load_recipe``.

    Raises:
        ConfigError: as of ``load_recipe``.
    """
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError("The recipe is not valid YAML.", found=yaml_problem(error), where=where) from None
    if not isinstance(data, dict):
        found = {type(None): "nothing", list: "a list: its first character is a dash or a bracket"}
        raise ConfigError(
            "The recipe is not a mapping of sections.",
            expected="sections by name, such as `name: cats` and `curation: ...`",
            found=found.get(type(data), f"a single value: {str(data)[:100]}"),
            where=where,
            fix="begin with a recipe that works, such as those in softalign/recipes, or `softalign init FOLDER`",
        )
    return explain_data(data, where, overrides)


def explain_data(data: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> ExplainedRecipe:
    """Return a recipe given as a mapping, which is changed, and where each of its values comes from.

    Raises:
        ConfigError: as of ``load_recipe``.
    """
    set_paths = [_apply_override(data, override) for override in overrides]
    try:
        resolution = resolve(data)
        return ExplainedRecipe(Recipe.model_validate(resolution.data), resolution, tuple(set_paths))
    except ValueError as error:  # pydantic's too
        sentences = problems(error, Recipe) if isinstance(error, ValidationError) else [str(error)]
        number = "one problem" if len(sentences) == 1 else f"{len(sentences)} problems"
        given = f" with --set {' --set '.join(overrides)}" if overrides else ""
        raise ConfigError(
            f"The recipe has {number}:\n" + "\n".join(f"    {sentence}" for sentence in sentences),
            where=f"{where}{given}",
            fix="correct these fields; `softalign plan RECIPE` checks a recipe without running it",
        ) from error


def _recipe_text(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return _file_text(path), str(path)
    if name_or_path not in recipe_names():
        raise ConfigError(
            f"There is no recipe named {name_or_path!r}{_meant_recipe(name_or_path)}",
            expected=f"one of {', '.join(recipe_names())}, or the path of a .yaml file",
            found="a folder of that name" if path.is_dir() else name_or_path,
            fix="name the .yaml file in it; `softalign init FOLDER` writes one" if path.is_dir() else "",
        )
    resource = resources.files("softalign") / "recipes" / f"{name_or_path}.yaml"
    return resource.read_text(encoding="utf-8"), f"recipe {name_or_path}"


def _file_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError("The recipe is a folder.", expected="a YAML file", where=str(path), fix="name a file in it")
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError(
            "There is no such recipe file.",
            found=f"the recipe files {', '.join(near[:5])}" if near else "",
            where=str(path),
            fix=f"check the path{did_you_mean(path.name, near)}",
        )
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ConfigError("The recipe is not UTF-8 text.", found=str(error), where=str(path)) from error
    except OSError as error:
        raise ConfigError(
            "The recipe cannot be read.",
            found=error.strerror or str(error),
            where=str(path),
            fix="check its permission",
        ) from error


def _meant_recipe(name: str) -> str:
    files = [f"{name}{suffix}" for suffix in (".yaml", ".yml") if Path(f"{name}{suffix}").is_file()]
    return f"; did you mean {files[0]}?" if files else did_you_mean(name, recipe_names()) or "."


def _apply_override(data: dict[str, Any], override: str) -> str:
    """Set the field that an override names, and return its path."""
    dotted, separator, value = override.partition("=")
    *sections, field = dotted.strip().split(".")
    if not separator or not field or not all(sections):
        raise ConfigError(
            "An override is malformed.",
            expected="section.field=value",
            found=override,
            fix="such as --set train.num_steps=100",
        )
    target = data
    for section in sections:
        if target.get(section) is None:  # a section without a value is one left open
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise ConfigError(
                "An override reaches into a value.",
                expected=f"a section named {section}",
                found="a list" if isinstance(target, list) else "a single value",
                where=f"--set {override}",
                fix=f"set it whole: --set '{dotted.partition(section)[0]}{section}=...'",
            )
    try:
        target[field] = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            "An override's value is not valid YAML.", found=yaml_problem(error), where=f"--set {override}"
        ) from None  # its text shows the value
    drop_other_spelling(data, dotted.strip())
    return dotted.strip()


class _UniqueKeys(yaml.SafeLoader):
    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _num_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its references (*name) stand for more than {MAX_VALUES} values, or for themselves")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for with its references written out: far more than there are characters."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # what refers to itself has no end
        parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        inner = parts if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_num_values(part, known) for part in inner)
    return known[id(node)]


def read_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        YAMLError: it is not YAML, is nested too deeply, has references without measure, or a mapping has a key twice.
    """
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, AttributeError) as error:  # PyYAML's, of what looks like a date and is none
        raise yaml.YAMLError(f"a value looks like a date or number and is none ({error}); quote it") from error


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return an error as ``line 3, column 5: what is wrong``, with the line below and a mark where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).partition("\n")[0]
    mark, problem = error.problem_mark, str(error.problem)
    words = next((text for known, text in _WORDS.items() if known in problem or known in repr(problem)), problem)
    snippet = mark.get_snippet(indent=_INDENT)
    return f"line {mark.line + 1}, column {mark.column + 1}: {words}" + (f"\n{snippet}" if snippet else "")
