"""What filesystems and their clients raise, as errors of this library that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from softalign.errors import (
    ConfigError,
    MissingInputError,
    SoftAlignError,
    StorageUnavailableError,
    os_error_fix,
    os_error_text,
)

REFUSED = "check credentials and permissions, and this machine's clock: S3 refuses requests of another hour"


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what filesystems raise while a URI is read or written into this library's errors.

    Raises:
        MissingInputError: there is no such file, folder or bucket.
        ConfigError: the store refused these credentials or is not a folder.
        StorageUnavailableError: the store did not answer; a retry may help.
    """
    try:
        yield
    except PermissionError as error:
        raise _refused(error, uri) from error
    except OSError as error:
        raise _of_os_error(error, uri) from error
    except Exception as error:
        if isinstance(error, ValueError) and _is_malformed(uri):
            raise _malformed() from None  # whose text may hold a part of the address's password
        if not _is_client_error(error):
            raise
        raise _of_client_error(error, uri) from error


def _of_os_error(error: OSError, uri: str) -> SoftAlignError:
    found, fix = _text_of(error), os_error_fix(error)
    known: SoftAlignError
    match error:
        case IsADirectoryError():
            what = "A folder lies where a file is expected."
            known = MissingInputError(what, expected="a file", found="a folder", where=uri)
        case FileNotFoundError():
            known = MissingInputError("A file is missing.", found=found, where=uri, fix="check the path")
        case NotADirectoryError() | FileExistsError():
            what = "The store's place is taken by a file."
            known = ConfigError(what, expected="a folder", found=found, where=uri)
        case OSError(errno=errno.ENAMETOOLONG):
            known = MissingInputError("A file is missing: no file can have so long a name.", where=uri[:200])
        case OSError(errno=errno.ELOOP):
            known = MissingInputError("A file is missing: the links lead in a circle.", where=uri)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):  # of this machine, or of the store: ``found`` may say which
            known = StorageUnavailableError("There is no room left to write.", found=found, where=uri, fix=fix)
        case OSError(errno=errno.EROFS):
            known = ConfigError("This place cannot be written.", found=found, where=uri, fix=fix)
        case _:
            known = StorageUnavailableError("The store did not answer.", found=found, where=uri)
    return known


def _is_malformed(uri: str) -> bool:
    try:
        return "://" in uri and urlsplit(uri).port == 0
    except ValueError:
        return True


def _malformed() -> ConfigError:
    expected = "scheme://host[:port]/path; a password's /, @, :, # and ? are written %2F, %40, %3A, %23 and %3F"
    return ConfigError("This is no address.", expected=expected, found="one that cannot be taken apart")


def _of_client_error(error: Exception, uri: str) -> SoftAlignError:
    if getattr(error, "status", None) in {401, 403}:
        return _refused(error, uri)
    if "ParamValidation" in type(error).__name__:  # before anybody was asked
        return ConfigError("This is no address of a file.", expected="s3://BUCKET/PATH", found=uri)
    if "Credentials" in type(error).__name__:
        return ConfigError(
            "There are no credentials for the store.",
            found=_text_of(error),
            where=uri,
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    return StorageUnavailableError(
        "The store did not answer.",
        found=_text_of(error),
        where=uri,
        fix="check the address (for S3 also AWS_ENDPOINT_URL) and the network",
    )


def _refused(error: Exception, uri: str) -> ConfigError:
    return ConfigError("The store refused access.", found=_text_of(error), where=uri, fix=REFUSED)


def _is_client_error(error: Exception) -> bool:
    """Whether an error comes from the S3 client, which is an optional package and has its own error family."""
    return type(error).__module__.partition(".")[0] in {"botocore", "aiobotocore", "aiohttp"}


def _text_of(error: Exception) -> str:
    text = os_error_text(error) if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__)[:300]
