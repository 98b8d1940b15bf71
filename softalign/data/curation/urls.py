"""Images that are named by URLs; what fetches (and its package) is loaded when one is read."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.config.curation import HttpConfig
from softalign.data.curation.fetch_errors import FetchError, NotThereError, RefusedError
from softalign.data.curation.rejections import UNLIMITED, ItemError

HTTP_DEFAULTS = HttpConfig()


@dataclass(frozen=True, slots=True)
class UrlImages:
    """Images that are named by their URLs."""

    http: HttpConfig

    def read(self, filename: str, max_bytes: int = UNLIMITED) -> bytes:
        """Return what lies behind a URL.

        Raises:
            ItemError: it cannot be fetched, or is too large.
            StorageUnavailableError: no host at all is heard of any more.
        """
        from softalign.data.curation.fetching import fetch

        try:
            return fetch(filename, self.http, max_bytes)
        except NotThereError as error:
            raise ItemError("missing_image", "" if error.status == 404 else error.detail) from error
        except FetchError as error:
            is_refused = isinstance(error, RefusedError)
            raise ItemError("access_refused" if is_refused else "unreadable_file", error.detail) from error
