"""The requests that a store's published outputs answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from softalign.artifacts import Stage
from softalign.stages.requests import StageRequest
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import REQUEST_FILENAME, Store


def published_requests(stage: Stage, store: Store) -> Iterator[tuple[float, str, StageRequest]]:
    """Yield the requests in a stage's folder: when each was written (seconds), its prefix, the request.

    What cannot be read as a request is passed over: it explains nothing.
    """
    uri = f"{store.uri}/{stage}"
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        filesystem.invalidate_cache()
        entries = filesystem.glob(f"{path}/*/{REQUEST_FILENAME}", detail=True)
        entries = {name: entry for name, entry in entries.items() if entry.get("type") == "file"}
        contents = filesystem.cat(list(entries)) if entries else {}
    for name, entry in sorted(entries.items()):
        try:
            request = StageRequest.model_validate_json(contents[name])
        except ValidationError:
            continue
        yield _written_at(entry), store.prefix(stage, name.rsplit("/", 2)[1]), request


def _written_at(entry: dict[str, Any]) -> float:
    """Return when a file was written, as its filesystem says it; 0 where it does not."""
    written = entry.get("mtime") or entry.get("LastModified") or entry.get("created") or 0.0
    return float(written.timestamp()) if hasattr(written, "timestamp") else float(written)
