"""Which run, stage and inputs the present work belongs to: what a structured log's lines say, and registries keep.

The run is the process's, or the orchestrator's where that says so (``identify_run``); the rest is of the context.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from softalign.credentials import without_secrets

RUN_URL_VARIABLE = "SOFTALIGN_RUN_URL"
"""The page of whatever started this process, as of a CI job; an orchestrator's flows say theirs themselves."""


@dataclass(slots=True)
class _Run:
    id: str
    url: str = ""


_RUN = _Run(uuid.uuid4().hex)
_FIELDS: ContextVar[Mapping[str, Any]] = ContextVar("what the log's lines are about", default={})  # noqa: B039  # a Mapping, never written to

_TO_REGISTER: ContextVar[bool] = ContextVar("the present work ends with a registration", default=False)


def identify_run(run_id: str, url: str = "") -> None:
    """Say which run of an orchestrator this process works for, and where its page is."""
    _RUN.id, _RUN.url = run_id, url


def run_id() -> str:
    """Return the id of the orchestrator's run, else one of this process."""
    return _RUN.id


def orchestrator_run_url() -> str:
    """Return the page of the run that this process works for; empty where none is known."""
    return without_secrets(_RUN.url or os.environ.get(RUN_URL_VARIABLE, ""))


@contextmanager
def to_register(is_planned: bool) -> Iterator[None]:
    """Let what runs in this block know whether it ends with a registration."""
    token = _TO_REGISTER.set(is_planned)
    try:
        yield
    finally:
        _TO_REGISTER.reset(token)


def is_to_register() -> bool:
    """Return whether the present work ends with a registration."""
    return _TO_REGISTER.get()


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Let the lines that are logged in this block carry fields, besides and before those around it."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def current_fields() -> Mapping[str, Any]:
    """Return the fields of this context."""
    return _FIELDS.get()
