"""The pulled versions in this machine's cache: which there are, from which registries, and forgetting some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from softalign.artifacts import Frozen
from softalign.errors import ConfigError
from softalign.registry.pulled_cache import PulledReference, remove_folder
from softalign.store.files import cache_dir


class PulledRow(Frozen):
    """One content that was pulled.

    Attributes:
        references: under which it can be had: ``NAME/1`` and ``NAME@champion``, with their registry.
        used_at: when it was last asked for, in UTC.
    """

    references: tuple[str, ...]
    size_bytes: int
    used_at: datetime
    path: str

    def to_name(self) -> str:
        """Return what it is called."""
        return ", ".join(self.references) or f"what nothing refers to ({self.path})"

    def to_text(self) -> str:
        """Return it for people, without its size."""
        return f"last used {self.used_at:%Y-%m-%d %H:%M} UTC  {self.to_name()}"


def pulled_rows() -> tuple[PulledRow, ...]:
    """Return the pulled versions, the one that was last used first."""
    names: dict[str, list[str]] = {}
    for path, reference in _references():
        names.setdefault(reference.digest, []).append(f"{_short(path, reference)} of {reference.registry}")
    rows = []
    for folder in (cache_dir() / "models" / "content").glob("[!.]*"):
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        used_at = datetime.fromtimestamp(folder.stat().st_mtime, tz=UTC)
        known = tuple(sorted(names.get(folder.name, ())))
        rows.append(PulledRow(references=known, size_bytes=size_bytes, used_at=used_at, path=str(folder)))
    return tuple(sorted(rows, key=lambda row: row.used_at, reverse=True))


def clear_pulled(wanted: Iterable[str]) -> tuple[PulledRow, ...]:
    """Forget versions by ``NAME`` or ``NAME/VERSION``, whatever their registry; return what is gone.

    What is had under another name, too, stays.

    Raises:
        ConfigError: nothing of a name is in the cache.
    """
    before, kept = pulled_rows(), set()
    asked, met = set(wanted), set()
    for path, reference in _references():
        if meant := asked & {reference.name, f"{reference.name}/{reference.version}"}:
            met |= meant
            path.unlink(missing_ok=True)
        else:
            kept.add(reference.digest)
    if missing := asked - met:
        raise ConfigError(
            "There is no such pulled version in the cache.",
            expected="NAME or NAME/VERSION as `softalign cache list` shows them",
            found=", ".join(sorted(missing)),
            where=str(cache_dir()),
        )
    gone = tuple(row for row in before if Path(row.path).name not in kept)
    for row in gone:
        remove_folder(Path(row.path))
    return gone


def _references() -> Iterator[tuple[Path, PulledReference]]:
    for path in (cache_dir() / "models" / "refs").glob("*/*/*.json"):
        try:
            yield path, PulledReference.model_validate_json(path.read_bytes())
        except (OSError, ValueError):  # another process is at work, or a power cut left half of it: as if it were not
            continue


def _short(path: Path, reference: PulledReference) -> str:
    kind, _, alias = path.stem.partition("-")
    return f"{reference.name}@{alias}" if kind == "alias" else f"{reference.name}/{reference.version}"
