"""YAML in which no key stands twice (plain YAML readers keep the last one silently), and its errors in plain words."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

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


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        YAMLError: it is not YAML, is nested too deeply, or a mapping has a key twice.
    """
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return an error as ``line 3, column 5: what is wrong``, with the line below and a mark where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).partition("\n")[0]
    mark, problem = error.problem_mark, str(error.problem)
    words = next((text for known, text in _WORDS.items() if known in problem or known in repr(problem)), problem)
    snippet = mark.get_snippet(indent=_INDENT)
    return f"line {mark.line + 1}, column {mark.column + 1}: {words}" + (f"\n{snippet}" if snippet else "")
