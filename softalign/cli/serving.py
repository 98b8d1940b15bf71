"""Commands about the orchestrator's server, which this library does not know: deploy, ui."""

from __future__ import annotations

import os
import sys
import webbrowser
from importlib.util import find_spec
from typing import Annotated

import typer

from softalign.cli.options import JsonOption, StoreOption, app, emit
from softalign.errors import ConfigError
from softalign.store.store import DEFAULT_STORE, Store


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def deploy(context: typer.Context) -> None:
    """Make or renew pools, deployments, schedules, triggers and notifications on Prefect's server (--help: options)."""
    if find_spec("prefect") is None or find_spec("flows") is None:
        raise ConfigError("Prefect is not installed.", fix="pip install 'softalign[pipeline]'")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "flows.deploy", *context.args])  # noqa: S606


@app.command()
def ui(
    store: StoreOption = DEFAULT_STORE,
    is_opening: Annotated[bool, typer.Option("--open/--no-open", help="in a browser, where there is a display")] = True,
    as_json: JsonOption = False,
) -> None:
    """Show, and open, the pages of the orchestrator, of the registry, and the newest report of the store."""
    pages = _pages(Store(store))
    text = "\n".join(f"{name:<10}{address or f'not known: {why}'}" for name, (address, why) in pages.items())
    addresses = {name: address for name, (address, _) in pages.items()}
    if is_opening and _has_display() and not as_json:
        for address in filter(None, addresses.values()):
            webbrowser.open(address)
    emit(addresses, as_json, text)


def _has_display() -> bool:
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(named) or sys.platform in ("darwin", "win32")


def _pages(store: Store) -> dict[str, tuple[str | None, str]]:
    """Return each page's address, and what is missing where there is none."""
    from softalign.credentials import without_credentials
    from softalign.registry.connection import HTTP, TRACKING_VARIABLE, registry_of_store

    api, registry = os.environ.get("PREFECT_API_URL", ""), os.environ.get(TRACKING_VARIABLE, "")
    page = os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
    prefect = without_credentials(page).removesuffix("/api") or None
    mlflow = without_credentials(registry) if registry.startswith(HTTP) else None
    own = f"; the store's own: mlflow ui --backend-store-uri {registry_of_store(store)}" if store.is_local else ""
    return {
        "prefect": (prefect, "set PREFECT_API_URL"),
        "mlflow": (mlflow, f"set {TRACKING_VARIABLE} to a server{own}"),
        "report": (_newest_report(store), f"no comparison in {store.uri}"),
    }


def _newest_report(store: Store) -> str | None:
    from softalign.store.files import link_of
    from softalign.upkeep.listing import list_stored

    reports = [file for file in list_stored(store.uri, "compare") if file.path.endswith("/report.html")]
    newest = max(reports, key=lambda file: file.changed_at, default=None)
    return None if newest is None else link_of(f"{store.uri}/{newest.path}")
