"""``usage.json`` beside a published record: what the stage cost, known also to those who reuse it later."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from softalign.artifacts import Record, Usage
from softalign.errors import MissingInputError
from softalign.store.files import create_file, read_bytes
from softalign.store.store import Store

USAGE_FILENAME = "usage.json"


def usage_uri(store: Store, record: Record) -> str:
    """Return where it lies."""
    return f"{store.prefix(record.stage, record.stage_key)}/{USAGE_FILENAME}"


def keep_usage(store: Store, record: Record, usage: Usage) -> None:
    """Keep beside a published record what it cost; what is kept there already stays.

    Raises:
        SoftAlignError: the store did not take it.
    """
    create_file(usage_uri(store, record), to_json(usage))


def kept_usage(store: Store, record: Record) -> Usage | None:
    """Return what a published record cost; None where that is not kept, or in a form that is not read here.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    try:
        return Usage.model_validate_json(read_bytes(usage_uri(store, record)))
    except (MissingInputError, ValidationError):
        return None


def unfinished_usage(path: Path) -> Usage:
    """Return what earlier attempts at an unfinished stage cost, from a local file; nothing where there is none."""
    try:
        return Usage.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Usage()


def to_json(usage: Usage) -> bytes:
    """Return the stored form."""
    return usage.model_dump_json(indent=1).encode() + b"\n"
