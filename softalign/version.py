"""The library's version: part of every stage key and of every record that says who wrote it."""

from __future__ import annotations

__version__ = "0.1.0"
