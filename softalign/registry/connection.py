"""Which registry, and talking to it quietly: no telemetry, no printed links, errors of this library's family."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any
from urllib.parse import unquote, urlsplit

from softalign.config.runtime import Runtime
from softalign.credentials import is_misread, secrets_of, without_credentials
from softalign.errors import ConfigError, MissingInputError
from softalign.registry.refusals import translated
from softalign.store.store import DEFAULT_STORE, STORE_VARIABLE, Store

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE_NAME = "mlflow.db"
ARTIFACTS_NAME = "mlflow-artifacts"
EMBEDDED = "store"
"""What records call the SQLite registry inside their own store: a record holds no path of a machine."""
SQLITE = "sqlite:///"
HTTP = ("http://", "https://")

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Set only where the environment does not say otherwise. MLflow's own 7 retries wait minutes for a dead server."""
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
DEFAULT_TIMEOUT_S = 30.0
_WAITS = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
_LOG_LEVELS = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
"""urllib3 warns of each of its retries with the whole query: that the registry did not answer is said once."""
_ONE_LOGIN = RLock()
"""Held while the environment has the login of an address."""
_UNAVAILABLE_CODES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}


def registry_of_store(store: Store) -> str:
    """Return the tracking URI of the SQLite registry within a local store.

    Raises:
        ConfigError: the store is not a folder of this machine.
    """
    if not store.is_local:
        raise ConfigError(
            "A remote store holds no SQLite registry.",
            expected=f"runtime.tracking_uri or {TRACKING_VARIABLE}",
            found="neither",
            where=store.uri,
            fix="set runtime.tracking_uri to an MLflow server, such as http://127.0.0.1:5000 of `make stack`",
        )
    return f"{SQLITE}{Path(store.uri) / DATABASE_NAME}"


def tracking_uri(runtime: Runtime, store: Store) -> str:
    """Return the registry a run in this store uses: ``runtime.tracking_uri``, else the environment's, else SQLite.

    Raises:
        ConfigError: neither is set and the store is remote, or the address cannot be used.
    """
    chosen = runtime.tracking_uri or os.environ.get(TRACKING_VARIABLE)
    return checked_address(chosen) if chosen else registry_of_store(store)


def consumer_uri(uri: str | None) -> str:
    """Return the registry a consumer means: the given one, else the environment's, else the default store's.

    Raises:
        ConfigError: the address cannot be used.
    """
    if chosen := uri or os.environ.get(TRACKING_VARIABLE):
        return checked_address(chosen)
    return registry_of_store(Store(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE))


def public_uri(uri: str, store: Store) -> str:
    """Return a tracking URI as records hold it: without credentials, and ``store`` for the store's own SQLite."""
    if store.is_local and uri == registry_of_store(store):
        return EMBEDDED
    return without_credentials(uri)


def reachable_uri(uri: str, store: Store) -> str:
    """Return the tracking URI that a record's, made by ``public_uri``, means for this store."""
    return registry_of_store(store) if uri == EMBEDDED else uri


def checked_address(uri: str) -> str:
    """Return a registry's address, its secrets noted so that no text shows them.

    Raises:
        ConfigError: it cannot be used as it was meant; what is secret in it is not shown.
    """
    secrets_of(uri, is_noted=True)
    if is_misread(uri):
        raise ConfigError(
            "The registry's address cannot be read: its password has characters that end a host name.",
            expected="a password with %40 for @, %2F for /, %3A for :, %23 for # and %3F for ?",
            where=without_credentials(uri),
            fix=f"write it so, or set {' and '.join(_LOGIN)} and leave it out of the address",
        )
    parts = urlsplit(uri)
    if uri.startswith(HTTP) and parts.query:
        raise ConfigError(
            "The registry's address has a query, which MLflow's client cannot use.",
            expected="an address such as https://host/path",
            found=f"a query with {', '.join(name.partition('=')[0] for name in parts.query.split('&'))}",
            where=without_credentials(uri).partition("?")[0],
            fix="leave it out; a token belongs in MLFLOW_TRACKING_TOKEN",
        )
    if uri.startswith(HTTP) and parts.username and not (parts.password or os.environ.get(_LOGIN[1])):
        raise ConfigError(
            "The registry's address has a user, but no password.",
            where=without_credentials(uri),
            fix=f"set {_LOGIN[1]}; if it is a token, set MLFLOW_TRACKING_TOKEN and leave it out of the address",
        )
    return uri


def require_database(uri: str) -> None:
    """Refuse a SQLite registry that does not exist: reading must not create an empty one.

    Raises:
        MissingInputError: there is no such database file.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise MissingInputError(
            "There is no model registry here.",
            expected="a SQLite registry made by `softalign register`, or an MLflow server",
            found="no file",
            where=uri,
            fix=f"set {TRACKING_VARIABLE} to the server or {STORE_VARIABLE} to the store that holds the registry",
        )


@contextmanager
def registry_client(uri: str, timeout_s: float | None = None) -> Iterator[Any]:
    """Yield an ``MlflowClient`` for tracking and registry; MLflow's errors become this library's.

    Args:
        uri: of the registry.
        timeout_s: how long a server may be silent until it is given up; unset: MLflow's variables say.

    Raises:
        ConfigError: mlflow, or what it needs for this URI, is not installed.
        StorageUnavailableError: the server did not answer.
        RegistryError: the server refused.
    """
    where = without_credentials(checked_address(uri))
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        database_errors = () if uri.startswith(HTTP) else _database_errors()
    except ImportError as error:
        raise _not_installed(uri, error) from error
    for logger, level in _LOG_LEVELS.items():
        logging.getLogger(logger).setLevel(level)
    try:
        if uri.startswith(SQLITE):
            _make_database(Path(uri.removeprefix(SQLITE)))
        with _in_environment(uri, timeout_s) as address:
            yield MlflowClient(tracking_uri=address, registry_uri=address)
    except MlflowException as error:
        raise translated(where, error, is_unavailable=error.error_code in _UNAVAILABLE_CODES) from error
    except ImportError as error:
        raise _not_installed(uri, error, f"pip install {error.name}") from error
    except RequestException as error:  # what the artifacts' proxy refuses comes as it is
        raise translated(where, error, is_unavailable=error.response is None) from error
    except database_errors as error:
        raise translated(where, error, is_unavailable=type(error).__name__ == "OperationalError") from error


def patience_s(timeout_s: float | None) -> float | None:
    """Return how long a consumer waits: as asked, else as MLflow's own variables say (None), else 30 s."""
    is_set = any(os.environ.get(name, _QUIET[name]) != _QUIET[name] for name in _WAITS)
    return timeout_s or (None if is_set else DEFAULT_TIMEOUT_S)


@contextmanager
def _in_environment(uri: str, timeout_s: float | None) -> Iterator[str]:
    """Yield a server's address without its login, which MLflow's client finds in the environment meanwhile.

    What the client raises shows the address it has, and an orchestrator keeps the tracebacks of failed runs. Also the
    limit of silence: two tries, each with half of it.
    """
    parts, settings = urlsplit(uri), {}
    if parts.username and uri.startswith(HTTP):
        settings[_LOGIN[0]] = unquote(parts.username)
        settings |= {_LOGIN[1]: unquote(parts.password)} if parts.password else {}
    if timeout_s is not None and uri.startswith(HTTP):
        settings |= dict(zip(_WAITS, (str(max(1, round(timeout_s / 2))), "1"), strict=True))
    if not settings:
        yield uri
        return
    with _ONE_LOGIN:
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield without_credentials(uri)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _make_database(path: Path) -> None:
    """Make a SQLite registry, whole or not at all: MLflow cannot go on with a schema that a kill left half-made."""
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        uri = f"{SQLITE}{made}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models()
        with suppress(FileExistsError):  # another process was sooner
            os.link(made, path)


def _database_errors() -> tuple[type[Exception], ...]:
    """Return what a database given directly may raise; the slim client of the ``registry`` extra opens servers only."""
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError,)


def _not_installed(uri: str, error: ImportError, fix: str = "") -> ConfigError:
    extra = "registry" if uri.startswith(HTTP) else "pipeline"
    return ConfigError(
        "The model registry's client, or a part of it, is not installed.",
        found=str(error).splitlines()[0],
        where=without_credentials(uri),
        fix=fix or f"pip install 'softalign[{extra}]'",
    )
