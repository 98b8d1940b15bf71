"""Images that are named by URLs, and why one is not fetched; what fetches (and its package) is loaded when one is."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.config.curation import HttpConfig
from softalign.data.curation.rejections import ItemError

HTTP_DEFAULTS = HttpConfig()


class FetchError(OSError):
    """An image was not fetched.

    Attributes:
        detail: why, in stable words: the same for the same answer.
        status: HTTP's, where there was an answer.
        may_pass: another try may succeed.
        wait_s: how long the server asks to wait before it.
    """

    def __init__(self, detail: str, status: int | None = None, *, may_pass: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.detail, self.status, self.may_pass, self.wait_s = detail, status, may_pass, wait_s


class NotThereError(FetchError, FileNotFoundError):
    """The server knows no such image."""


class RefusedError(FetchError, PermissionError):
    """The server refuses, or the address is not one to fetch from."""


class SlowError(FetchError, TimeoutError):
    """The server took too long."""


@dataclass(frozen=True, slots=True)
class UrlImages:
    """Images that are named by their URLs."""

    http: HttpConfig

    def read(self, filename: str) -> bytes:
        """Return what lies behind a URL.

        Raises:
            ItemError: it cannot be fetched.
            StorageUnavailableError: no host at all is heard of any more.
        """
        from softalign.data.curation.fetching import fetch

        try:
            return fetch(filename, self.http)
        except NotThereError as error:
            raise ItemError("missing_image", "" if error.status == 404 else error.detail) from error
        except FetchError as error:
            is_refused = isinstance(error, RefusedError)
            raise ItemError("access_refused" if is_refused else "unreadable_file", error.detail) from error
