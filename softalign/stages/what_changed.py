"""Why a stage runs again: what differs between a request and the nearest one that was answered before."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Literal

from softalign.artifacts import Frozen, Record
from softalign.errors import MissingInputError
from softalign.stages.asked_before import published_requests
from softalign.stages.published import stage_of
from softalign.stages.requests import StageRequest
from softalign.stages.table import STAGES
from softalign.store.files import open_filesystem, read_bytes
from softalign.store.reaching import reaching
from softalign.store.store import Store

MAX_VALUE_CHARS = 80
"""Longer values are cut in messages."""
SHOWN_CAUSES = 3
"""How many causes of a changed input its text names."""
UNSET = "unset"
NAMES = ("name", "curation.name", "register.name")
"""Fields by which outputs of one purpose are told from those of another."""


class FieldChange(Frozen):
    """One thing that differs between two requests.

    Attributes:
        kind: a recipe's ``field``, the ``content`` it names, an ``input`` from an earlier stage, or the ``version`` of
            the library.
        before: the answered request's value, ``unset`` where it had none; of content and inputs a digest.
        after: the same of the present request.
        cause: of an input: why it is another one, where its requests say so.
    """

    kind: Literal["field", "content", "input", "version"]
    name: str
    before: Any
    after: Any
    cause: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What changed, in words."""
        if self.kind == "content":
            return f"{self.name}: the files it names changed"
        if self.kind == "input":
            why = "; ".join(self.cause[:SHOWN_CAUSES])
            return f"another output of {self.name}{f' ({why})' if why else ''}"
        return f"{self.name}{' ' if self.kind == 'version' else ': '}{_shown(self.before)} -> {_shown(self.after)}"


def changes(before: StageRequest, after: StageRequest) -> tuple[FieldChange, ...]:
    """Return what differs; inputs that ``after`` does not know yet are not compared."""
    found = _changed("field", _flat(before.config), _flat(after.config))
    fields = [change.name for change in found]
    for change in _changed("content", before.content, after.content):
        if not any(f"{field}.".startswith(f"{change.name}.") for field in fields):  # else other files are named
            found.append(change)
    found += [change for change in _changed("input", before.inputs, after.inputs) if change.name in after.inputs]
    found += _changed(
        "version", {"library version": before.library_version}, {"library version": after.library_version}
    )
    return tuple(found)


def nearest_changes(request: StageRequest, kind: type[Record], store: Store) -> tuple[FieldChange, ...] | None:
    """Return what differs from the published output with the fewest differences, the latest of those.

    Only outputs of the same name are compared, where the stage has one, and of the same variant. None: none of them
    says what it was asked for.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    candidates = []
    for written_at, prefix, published in published_requests(request.stage, store):
        if _identity(published) == _identity(request):
            found = changes(published, request)
            candidates.append((len(found), -written_at, prefix, found))
    for _, _, prefix, found in sorted(candidates, key=lambda candidate: candidate[:3]):
        if _exists(f"{prefix}/{kind.filename}"):
            return tuple(_with_cause(change, store) if change.kind == "input" else change for change in found)
    return None


def _with_cause(change: FieldChange, store: Store) -> FieldChange:
    """Return an input's change with what differs between the requests that the two outputs answered."""
    kind = next((row.record for row in STAGES if row.name == stage_of(change.name)), None)
    if kind is None:  # written by another version, which had a stage of that name
        return change
    requests: dict[str, StageRequest] = {}
    for _, prefix, request in published_requests(kind.stage, store):
        with suppress(MissingInputError, ValueError, KeyError, TypeError):
            requests[str(json.loads(read_bytes(f"{prefix}/{kind.filename}"))["digest"])] = request
    if change.before not in requests or change.after not in requests:
        return change
    between = changes(requests[change.before], requests[change.after])
    return change.model_copy(update={"cause": tuple(one.text for one in between)})


def _identity(request: StageRequest) -> tuple[str, dict[str, Any]]:
    flat = _flat(request.config)
    return request.variant, {name: flat[name] for name in NAMES if name in flat}


def _exists(uri: str) -> bool:
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        return bool(filesystem.exists(path))


def _changed(
    kind: Literal["field", "content", "input", "version"], before: dict[str, Any], after: dict[str, Any]
) -> list[FieldChange]:
    return [
        FieldChange(kind=kind, name=name, before=before.get(name, UNSET), after=after.get(name, UNSET))
        for name in dict.fromkeys([*before, *after])
        if before.get(name, UNSET) != after.get(name, UNSET)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values below mappings and lists of mappings by dotted name."""
    if isinstance(value, dict):
        items: list[tuple[str, Any]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {
        name: inner for key, item in items for name, inner in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."
