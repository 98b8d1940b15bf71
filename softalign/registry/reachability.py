"""Whether a registry answers and lets us in, asked with one cheap request: MLflow's client takes seconds to import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from softalign.credentials import without_credentials
from softalign.errors import RegistryError, StorageUnavailableError
from softalign.registry.connection import HTTP, SQLITE, checked_address

TIMEOUT_S = 10.0
QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"
OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Where MLflow's client logs in by a way of its own: a request without it is refused, which then says nothing."""
REFUSED = (401, 403)


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """What a registry says of itself.

    Attributes:
        version: of the server; empty where it does not say, or there is none.
        clock_skew_s: how far this machine's clock is ahead of the server's; None where it does not say.
    """

    version: str = ""
    clock_skew_s: float | None = None


def ask_registry(uri: str) -> RegistryAnswer:
    """Return a registry's answer to one request.

    A SQLite registry is asked for nothing: the store makes it. Addresses of other kinds (``databricks``) are not looked
    at before they are used.

    Raises:
        StorageUnavailableError: it did not answer, or answered with an error of its own.
        RegistryError: it refused this account.
        ConfigError: the address cannot be used.
    """
    checked_address(uri)
    if uri.startswith(HTTP):
        return _ask_server(uri)
    if not uri.startswith(SQLITE) and "://" in uri and _is_database(uri):
        _ask_database(uri)
    return RegistryAnswer()


def _ask_server(uri: str) -> RegistryAnswer:
    import requests

    where = without_credentials(uri)
    try:
        answer = requests.get(where.rstrip("/") + QUESTION, timeout=TIMEOUT_S, **_login(uri))
        version = requests.get(where.rstrip("/") + "/version", timeout=TIMEOUT_S, **_login(uri))
    except requests.RequestException as error:
        raise StorageUnavailableError(
            "The model registry did not answer.",
            found=type(error).__name__,
            where=where,
            fix="start or reach the server; finished work is kept",
        ) from error
    if answer.status_code >= 500:  # the server's own errors
        raise StorageUnavailableError(
            f"The model registry answered with an error of its own: HTTP {answer.status_code}.",
            found=answer.text[:200],
            where=where,
            fix="look at the server's log; finished work is kept",
        )
    is_refused = answer.status_code in REFUSED and not any(os.environ.get(name) for name in OTHER_LOGINS)
    if is_refused:
        raise RegistryError(
            "The model registry refuses this account.",
            found=f"HTTP {answer.status_code}",
            where=where,
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    if not answer.ok and answer.status_code not in REFUSED:
        raise RegistryError(
            "What answers there is no model registry.",
            expected="an MLflow server",
            found=f"HTTP {answer.status_code}",
            where=where,
            fix="check the address",
        )
    return RegistryAnswer(version.text.strip() if version.ok else "", _skew_s(answer.headers.get("Date")))


def _login(uri: str) -> dict[str, Any]:
    """Return how MLflow's client would log in: by token, by name and password, and with which certificates."""
    parts, env = urlsplit(uri), os.environ
    name = unquote(parts.username or "") or env.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or env.get("MLFLOW_TRACKING_PASSWORD", "")
    options: dict[str, Any] = {"auth": (name, password)} if name else {}
    if token := env.get("MLFLOW_TRACKING_TOKEN"):
        options["headers"] = {"Authorization": f"Bearer {token}"}
    if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"1", "true"}:
        options["verify"] = False
    elif certificate := env.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        options["verify"] = certificate
    if certificate := env.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        options["cert"] = certificate
    return options


def _skew_s(date: str | None) -> float | None:
    """Return how far this clock is ahead of an answer's date; None where it cannot be read (proxies)."""
    try:
        said = parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return None
    return (datetime.now(UTC) - (said if said.tzinfo else said.replace(tzinfo=UTC))).total_seconds()


def _is_database(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] in {"postgresql", "mysql", "mssql"}


def _ask_database(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        raise StorageUnavailableError(
            "The model registry's database did not let us in.",
            found=str(error).splitlines()[0][:300],
            where=without_credentials(uri),
            fix="start or reach the database, check its name and account",
        ) from error


def registry_folder(uri: str) -> Path | None:
    """Return the folder that holds a SQLite registry; None for others."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
