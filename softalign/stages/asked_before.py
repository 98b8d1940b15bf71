"""The requests that a store's published outputs answered."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from softalign.artifacts import Record, Stage
from softalign.stages.requests import StageRequest
from softalign.store.files import open_filesystem, read_bytes
from softalign.store.reaching import reaching
from softalign.store.store import REQUEST_FILENAME, Store
from softalign.store.written import written_at


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
        yield written_at(entry), store.prefix(stage, name.rsplit("/", 2)[1]), request


def request_of(record: Record, store: Store) -> StageRequest:
    """Return the request that a published record answered.

    Raises:
        MissingInputError: none lies beside it.
        ValidationError: it is of another format.
    """
    uri = f"{store.prefix(record.stage, record.stage_key)}/{REQUEST_FILENAME}"
    return StageRequest.model_validate_json(read_bytes(uri))
