"""Commands that tidy up: gc for a store, cache for this machine."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from softalign.cli.options import JsonOption, StoreOption, app, emit, require_pipeline
from softalign.errors import ConfigError
from softalign.store.store import DEFAULT_STORE, Store

if TYPE_CHECKING:
    from softalign.upkeep.cache import CacheRow
    from softalign.upkeep.pulled import PulledRow

cache_app = typer.Typer(help="What this machine keeps of remote stores and registries.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _seconds(age: str) -> float:
    """Return an age such as ``7d`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", age.strip())
    if found is None:
        raise ConfigError("This is no age.", expected="a number and s, m, h, d or w, such as 7d", found=repr(age))
    return float(found[1]) * UNITS_S[found[2]]


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:10.2f} MB"


@app.command()
def gc(
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without, it is only listed")] = False,
    older_than: Annotated[str, typer.Option("--older-than", help="what was changed later stays")] = "7d",
    as_json: JsonOption = False,
) -> None:
    """List, and with --yes remove, what no record of a store refers to and no run holds."""
    require_pipeline("gc")
    from softalign.upkeep.garbage import find_garbage
    from softalign.upkeep.removing import remove_garbage

    opened, changed_before = Store(store), time.time() - _seconds(older_than)
    found = find_garbage(opened, changed_before)
    gone = remove_garbage(found, opened, changed_before) if yes else ()
    lines = [f"{_megabytes(one.size_bytes)}  {one.place}  {one.why}" for one in (gone if yes else found)]
    total = sum(one.size_bytes for one in (gone if yes else found))
    said = f"{len(gone)} removed" if yes else f"{len(found)} can go; --yes removes"
    stayed = len(found) - len(gone)
    kept = f"; {stayed} stayed: changed meanwhile, or held by a run" if yes and stayed else ""
    text = "\n".join([*lines, f"{_megabytes(total)}  in {opened.uri}, older than {older_than}: {said}{kept}"])
    payload = {
        "store": opened.uri,
        "older_than_s": _seconds(older_than),
        "is_removed": yes,
        "size_bytes": total,
        "found": [one.model_dump(mode="json") for one in found],
        "removed": [one.place for one in gone],
    }
    emit(payload, as_json, text)


@cache_app.command("list")
def cache_list(as_json: JsonOption = False) -> None:
    """Show what the cache holds: by kind, and each pulled version."""
    from softalign.registry.pulled_cache import limit_bytes
    from softalign.store.files import cache_dir
    from softalign.upkeep.cache import cache_rows
    from softalign.upkeep.pulled import pulled_rows

    rows, pulled = cache_rows(), pulled_rows()
    lines = [f"{_megabytes(row.size_bytes)}  {row.num_files:6d} files  {row.path}  {row.what}" for row in rows]
    lines += [f"{_megabytes(row.size_bytes)}  {row.to_text()}" for row in pulled]
    payload = {
        "path": str(cache_dir()),
        "kinds": [row.model_dump(mode="json") for row in rows],
        "pulled": [row.model_dump(mode="json") for row in pulled],
        "pulled_limit_bytes": limit_bytes(),
    }
    emit(payload, as_json, "\n".join(lines) or f"nothing in {cache_dir()}")


@cache_app.command("clear")
def cache_clear(
    pulled: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|NAME/VERSION]...", help="only these pulled versions")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="pulled versions and unfinished work for remote stores, too")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what can be fetched again, or some pulled versions."""
    from softalign.upkeep.cache import clear_cache
    from softalign.upkeep.pulled import clear_pulled

    if pulled and everything:
        raise ConfigError("There are names and --all.", expected="one of both", found="both", fix="leave one out")
    gone: tuple[PulledRow, ...] | tuple[CacheRow, ...]
    gone = clear_pulled(pulled) if pulled else clear_cache(is_all=everything)
    names = [row.to_name() for row in gone]
    size_bytes = sum(row.size_bytes for row in gone)
    payload = {"removed": [row.model_dump(mode="json") for row in gone], "size_bytes": size_bytes}
    emit(payload, as_json, f"{_megabytes(size_bytes)} removed: {', '.join(names) or 'nothing'}")
