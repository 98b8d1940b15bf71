"""What MLflow's client raises, as errors of this library that name the right cause."""

from __future__ import annotations

import re

from softalign.errors import RegistryError, StorageUnavailableError

_SERVER_ERROR = re.compile(r"too many (5\d\d) error responses|failed with error code (5\d\d)")
"""How MLflow's client words that a server kept answering with an error."""
_REFUSED_ACCOUNT = re.compile(r"error code (40[13])|^(40[13]) Client Error")
ACCOUNT_FIX = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
CERTIFICATE_FIX = "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of who signed the server's"


def _first_cause(error: BaseException) -> BaseException:
    """Return the error that led to the others: `connection refused` says more than what was asked and how often."""
    while (before := error.__cause__ or error.__context__) is not None and str(before).strip():
        error = before
    return error


def translated(where: str, error: Exception, *, is_unavailable: bool) -> RegistryError | StorageUnavailableError:
    """Return an error of MLflow's client as one of this library's.

    Args:
        where: the registry's address, without credentials.
        error: as it came.
        is_unavailable: no answer, or one that a later request may not get.
    """
    cause = _first_cause(error) if is_unavailable else error
    found = str(cause).strip().splitlines()[0][:500]
    if is_unavailable and (answer := _SERVER_ERROR.search(found)):
        return StorageUnavailableError(
            f"The model registry answered with an error of its own: HTTP {answer[1] or answer[2]}.",
            found=found,
            where=where,
            fix="look at the server's log (with files in s3:// it needs boto3 and the bucket's keys), then run again: "
            "finished work is kept",
        )
    if is_unavailable and "CERTIFICATE_VERIFY_FAILED" in found:
        return StorageUnavailableError(
            "The model registry's certificate is not trusted here.", found=found, where=where, fix=CERTIFICATE_FIX
        )
    if is_unavailable:
        return StorageUnavailableError(
            "The model registry did not answer.",
            found=found,
            where=where,
            fix="start or reach the server, then run again: finished work is kept",
        )
    if _REFUSED_ACCOUNT.search(found):
        what = "The model registry refused this account."
        return RegistryError(what, found=found, where=where, fix=ACCOUNT_FIX)
    return RegistryError(
        "The model registry refused a request.",
        expected="a server (http://, https://) or a database (sqlite:///, postgresql+psycopg2://) made by MLflow",
        found=found,
        where=where,
        fix="check the address, the name, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, your permissions "
        "and the server's log",
    )
