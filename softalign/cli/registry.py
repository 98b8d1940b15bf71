"""Commands of the model registry: pull, promote, rollback, history, compare."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.options import (
    JsonOption,
    OfflineOption,
    StoreOption,
    TimeoutOption,
    TrackingOption,
    app,
    emit,
    registry_named,
)
from softalign.errors import ConfigError
from softalign.store.store import DEFAULT_STORE

log = logging.getLogger("softalign")


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS|NAME/VERSION")],
    to: Annotated[Path, typer.Option("--to", help="folder for the adapter's files")],
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    offline: OfflineOption = False,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a registered adapter: verified by sha256, cached, offline afterwards; a folder that is there is updated."""
    from softalign.registry import pull_version

    found = pull_version(reference, to, registry_named(tracking_uri, store), offline=offline, timeout_s=timeout_s)
    payload = {**asdict(found), "path": str(found.path), "reference": reference}
    if not as_json:
        said = ", as it was when the registry was last asked" if found.is_offline and found.alias else ""
        log.info("%s/%d%s", found.name, found.version, said)
    emit(payload, as_json, str(found.path))


@app.command()
def promote(
    name: str,
    version: Annotated[int | None, typer.Option("--version", help="default: the challenger")] = None,
    reason: Annotated[str, typer.Option("--reason", help="kept in the history")] = "promoted by hand",
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion by hand."""
    from softalign.registry import promote as promote_version

    if "/" in name or "@" in name:
        model, number = re.split("[/@]", name, maxsplit=1)
        raise ConfigError(
            "A model is promoted by its name.",
            expected="NAME and --version N",
            found=name,
            fix=f"softalign promote {model}" + (f" --version {number}" if number.isdecimal() else ""),
        )
    entry = promote_version(name, version, reason, registry_named(tracking_uri, store))
    emit(entry.model_dump(mode="json"), as_json, entry.to_text())


@app.command()
def rollback(
    name: str,
    reason: Annotated[str, typer.Option("--reason", help="kept in the history")] = "rolled back by hand",
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Give the champion alias back to the champion before."""
    from softalign.registry import rollback as roll_back

    entry = roll_back(name, reason, registry_named(tracking_uri, store))
    emit(entry.model_dump(mode="json"), as_json, entry.to_text())


@app.command()
def history(
    name: str, tracking_uri: TrackingOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False
) -> None:
    """List the versions of a model, what was decided about each, and where each can be looked at."""
    from softalign.registry import history as read_history
    from softalign.registry import version_links

    registry = registry_named(tracking_uri, store)
    entries, links = read_history(name, registry), version_links(name, registry)
    lines = {one.version: one.to_lines() for one in links}
    text: list[str] = []
    for entry in entries:
        looked = [f"  {entry.look}"] if entry.look else []
        text += [entry.to_text(), *looked, *(lines.get(entry.version, ()) if entry.action == "register" else ())]
    payload = {
        "name": name,
        "history": [entry.model_dump(mode="json") for entry in entries],
        "links": [one.model_dump(mode="json") for one in links],
    }
    emit(payload, as_json, "\n".join(text))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="NAME/VERSION")],
    b: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="the differences are B - A")],
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Compare two registered versions: in pairs where both were drawn from the same prompts and noise."""
    from softalign.evaluation.versions import compare_versions

    found = compare_versions(a, b, registry_named(tracking_uri, store))
    emit(found.model_dump(mode="json"), as_json, found.to_text())
