"""Why an image behind HTTP was not fetched."""

from __future__ import annotations


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
