"""When a file of a store was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def written_at(entry: Mapping[str, Any]) -> float:
    """Return when a file was written, in Unix seconds, as its filesystem's listing says it; 0 where it does not."""
    found = entry.get("LastModified") or entry.get("mtime") or entry.get("created") or 0.0
    return float(found.timestamp()) if hasattr(found, "timestamp") else float(found)
