"""Values in nested mappings by their dotted path, as in ``--set``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def lookup(data: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path; None where there is nothing, or null."""
    value: Any = data
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def put(data: dict[str, Any], path: str, value: Any) -> bool:
    """Set the value at a path, making the sections on the way; False if something else stands in the way."""
    *sections, field = path.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            return False
    data[field] = value
    return True


def leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is no section with its path; entries of a list of sections go by their number."""
    if isinstance(data, dict) and data:
        items = [(str(name), value) for name, value in data.items()]
    elif isinstance(data, list | tuple) and any(isinstance(item, dict) for item in data):
        items = [(str(index), value) for index, value in enumerate(data)]
    else:
        yield prefix, data
        return
    for name, value in items:
        yield from leaves(value, f"{prefix}.{name}" if prefix else name)
