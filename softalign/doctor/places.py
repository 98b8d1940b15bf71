"""Checks of the places that runs reach: store, registry, clocks, the models' hub, and the credentials for them."""

from __future__ import annotations

import os
from urllib.request import Request, urlopen

from softalign.config.runtime import Runtime
from softalign.credentials import holds_secret, without_credentials
from softalign.doctor.finding import Check, Finding, failed, ok, skipped, warning
from softalign.errors import ConfigError
from softalign.registry import ask_registry, registry_folder, tracking_uri
from softalign.registry.connection import TRACKING_VARIABLE
from softalign.store.probing import probe
from softalign.store.store import Store
from softalign.vulnerable import MLFLOW

LARGE_SKEW_S = 300.0
"""S3 refuses requests from 15 minutes on (its RequestTimeTooSkewed); a clock that is off by this will get there."""
HUB_TIMEOUT_S = 5.0


def place_checks(store: Store, runtime: Runtime) -> tuple[Check, ...]:
    """Return the checks of the places that runs in a store reach."""
    return (
        Check("store", lambda: look_at_store(store)),
        Check("registry", lambda: look_at_registry(runtime, store)),
        Check("clock", lambda: look_at_clock(runtime, store)),
        Check("secrets", look_at_secrets),
        Check("hub", look_at_hub),
    )


def look_at_store(store: Store) -> Finding:
    """Return whether the store can be written, read, and written by one of two."""
    found = probe(store)
    return ok("store", f"{store.uri} takes and gives back files ({found.seconds * 1000:.0f} ms)")


def look_at_registry(runtime: Runtime, store: Store) -> Finding:
    """Return whether the registry answers this account, in a version without known holes."""
    try:
        uri = tracking_uri(runtime, store)
    except ConfigError as error:
        return warning("registry", error.what, error.fix)
    if (folder := registry_folder(uri)) is not None:
        return ok("registry", f"SQLite in {folder}")
    answer = ask_registry(uri)
    where = without_credentials(uri)
    if MLFLOW.covers(answer.version):
        found = f"{where} is MLflow {answer.version}, which has {' and '.join(MLFLOW.advisories)}"
        return failed("registry", found, f"upgrade the server to {MLFLOW.below} or newer")
    return ok("registry", f"{where} answers{f', MLflow {answer.version}' if answer.version else ''}")


def look_at_clock(runtime: Runtime, store: Store) -> Finding:
    """Compare this machine's clock with those of store and registry."""
    skews = {store.uri: probe(store).clock_skew_s}
    try:
        uri = tracking_uri(runtime, store)
        skews[without_credentials(uri)] = ask_registry(uri).clock_skew_s
    except ConfigError:
        pass  # the registry's own check says it
    known = {where: skew_s for where, skew_s in skews.items() if skew_s is not None}
    if not known:
        return skipped("clock", "nothing here has another clock to compare with")
    where, skew_s = max(known.items(), key=lambda item: abs(item[1]))
    if abs(skew_s) > LARGE_SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        return failed("clock", f"{abs(skew_s):.0f} s {side} {where}", "set this machine's clock (NTP)")
    return ok("clock", f"within {abs(skew_s):.0f} s of {where}")


def look_at_secrets() -> Finding:
    """Return whether a password stands where it is shown to others: in an address."""
    shown = [name for name in (TRACKING_VARIABLE, "PREFECT_API_URL") if holds_secret(os.environ.get(name, ""))]
    if shown:
        fix = "use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PREFECT_API_AUTH_STRING"
        return warning("secrets", f"{' and '.join(shown)} hold a password or token", fix)
    return ok("secrets", "no password in an address")


def look_at_hub() -> Finding:
    """Return whether base models can be fetched, and whether the hub knows this account's token."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return ok("hub", "HF_HUB_OFFLINE: base models come from folders and the cache")
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S):  # noqa: S310  # https
            name = HfApi().whoami()["name"] if get_token() else None
    except HfHubHTTPError as error:
        return failed("hub", f"the hub refuses HF_TOKEN: {str(error).splitlines()[0][:120]}", "make a new token")
    except OSError as error:
        found = f"{constants.ENDPOINT} was not reached ({error})"
        return warning(
            "hub", found, "name local folders in backbone.model, or reach it; HF_HUB_OFFLINE=1 says so at once"
        )
    return ok("hub", f"reached{f' as {name}' if name else ', without an account: gated models need HF_TOKEN'}")
