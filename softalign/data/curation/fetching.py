"""What lies behind HTTP: fetched with timeouts, retries, limits by host and size, and from public addresses only."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, NoReturn
from urllib.parse import SplitResult, quote, urljoin, urlsplit
from weakref import WeakValueDictionary

import httpcore

from softalign.config.curation import HttpConfig
from softalign.data.curation.addresses import AddressRefusedError, CheckedBackend, Deadline, UnknownHostError
from softalign.data.curation.fetch_errors import FetchError, NotThereError, RefusedError, SlowError
from softalign.data.curation.rejections import UNLIMITED, too_large
from softalign.errors import StorageUnavailableError
from softalign.version import __version__

BACKOFF_S = 0.5
"""Wait before the second try; it doubles with each further one, and up to half of it is added at random."""
MAX_WAIT_S = 30.0
"""The longest wait between tries, whatever a server asks for."""
MAX_REDIRECTS = 5
MAX_IDLE_CONNECTIONS = 32
"""Kept open for the next request to their hosts: images may be behind a million of them."""
MAX_SILENT_HOSTS = 20
"""After so many hosts in a row that nothing was heard of, it is this machine that is cut off."""
PRIVATE_ADDRESS = "a private address"
"""Why such a one is refused."""
_PACE_BYTES = 1 << 20
_REDIRECTS = {301, 302, 303, 307, 308}
_MAY_PASS = {408, 425, 429}
_SAFE = "/%:@!$&'()*+,;=~-._"
_HEADERS = {"User-Agent": f"softalign/{__version__}", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server says: its headers, and the body as it comes."""

    headers: dict[str, str]
    chunks: Iterator[bytes]


Receiver = Callable[[_Answer, Deadline], None]
"""Takes an answer; may put off when it must have come."""


def fetch(url: str, http: HttpConfig, max_bytes: int = UNLIMITED, trusted_uri: str = "") -> bytes:
    """Return what lies behind a URL; what may pass is tried again.

    Args:
        url: ``http`` or ``https``; characters that no URL may hold are escaped.
        http: the limits.
        max_bytes: of a larger file no more is read.
        trusted_uri: an address that a recipe names itself: its host may be a private one.

    Raises:
        ItemError: it is too large.
        FetchError: it cannot be fetched.
        StorageUnavailableError: no host at all is heard of any more.
    """
    data = io.BytesIO()
    _try(url, http, trusted_uri, lambda answer, _deadline: _copy(answer, data, max_bytes, lambda: None))
    return data.getvalue()


def fetch_into(target: IO[bytes], url: str, http: HttpConfig, max_bytes: int) -> None:
    """Write what lies behind a URL into a file; ``timeout_s`` is the time that each MiB of it may take.

    Raises:
        ItemError, FetchError, StorageUnavailableError: see ``fetch``.
    """

    def receive(answer: _Answer, deadline: Deadline) -> None:
        def extend() -> None:
            deadline.at = time.monotonic() + http.timeout_s

        _copy(answer, target, max_bytes, extend)

    _try(url, http, "", receive)


def headers_of(url: str, http: HttpConfig) -> dict[str, str]:
    """Return the headers that a URL is answered with, by their names in lower case.

    Raises:
        FetchError, StorageUnavailableError: see ``fetch``.
    """
    found: dict[str, str] = {}
    _try(url, http, "", lambda answer, _deadline: found.update(answer.headers))
    return found


def _try(url: str, http: HttpConfig, trusted_uri: str, receive: Receiver) -> None:
    client = _client(http, trusted_uri, os.getpid())
    for number in range(http.max_tries):
        try:
            return client.fetch(url, receive)
        except FetchError as error:
            if not error.may_pass or number == http.max_tries - 1:
                raise
            wait_s = BACKOFF_S * 2**number * (1 + random.random() / 2)  # noqa: S311  # spreads tries, decides nothing
            time.sleep(min(max(wait_s, error.wait_s), MAX_WAIT_S))
    raise AssertionError("there is at least one try")


@lru_cache(maxsize=32)
def _client(http: HttpConfig, trusted_uri: str, _process: int) -> _Client:
    """Return this process's client: connections, and what is under way, are shared by its threads."""
    return _Client(http, trusted_uri)


class _Client:
    """Makes single tries.

    Args:
        http: the limits.
        trusted_uri: see ``fetch``.
    """

    def __init__(self, http: HttpConfig, trusted_uri: str) -> None:
        self._http = http
        self._deadline = Deadline()
        parts = urlsplit(trusted_uri)
        trusted = (_host_of(parts), _port_of(parts)) if parts.hostname else ("", 0)
        backend = CheckedBackend(self._deadline, trusted, http.allow_private_addresses)
        self._pool = httpcore.ConnectionPool(
            max_connections=None,  # the callers' threads are few
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=20.0,
            network_backend=backend,
        )
        self._lock = threading.Lock()
        self._limits: WeakValueDictionary[str, threading.Semaphore] = WeakValueDictionary()
        self._silent: set[str] = set()

    def fetch(self, url: str, receive: Receiver) -> None:
        """Hand over the answer of what lies behind a URL, after redirects.

        Raises:
            FetchError: see ``fetch``.
            StorageUnavailableError: see ``fetch``.
        """
        self._deadline.at = time.monotonic() + self._http.timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            target = self._get(url, receive)
            if target is None:
                return
            url = target
        raise FetchError("too many redirects")

    def _get(self, url: str, receive: Receiver) -> str | None:
        """Hand over what lies behind a URL, or return the URL that it redirects to."""
        parts = _parts_of(url)
        host = _host_of(parts)
        asked_at = time.monotonic()
        with self._limit_of(host):
            self._deadline.at += time.monotonic() - asked_at  # waiting for others to the same host is no slowness
            try:
                return self._answer(url, parts, host, receive)
            except AddressRefusedError as error:
                raise RefusedError(PRIVATE_ADDRESS) from error
            except UnknownHostError as error:
                self._note_silence(host)
                raise FetchError("an unknown host", may_pass=True) from error
            except httpcore.TimeoutException as error:
                self._note_silence(host)
                raise SlowError("took too long", may_pass=True) from error
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                self._note_silence(host)
                raise FetchError("broken connection", may_pass=True) from error

    def _answer(self, url: str, parts: SplitResult, host: str, receive: Receiver) -> str | None:
        address = httpcore.URL(scheme=parts.scheme, host=host, port=parts.port, target=_target_of(parts))
        named = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
        headers: list[tuple[str | bytes, str | bytes]] = [
            *_HEADERS.items(),
            ("Host", named),
        ]
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._http.timeout_s)
        with self._pool.stream("GET", address, headers=headers, extensions={"timeout": timeouts}) as response:
            with self._lock:
                self._silent.clear()
            answered = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in answered:
                return urljoin(url, answered[b"location"])
            if response.status != 200:
                _refuse(response.status, answered.get(b"retry-after", ""))
            headers_said = {name.decode("latin-1"): value for name, value in answered.items()}
            receive(_Answer(headers_said, response.iter_stream()), self._deadline)
            return None

    def _limit_of(self, host: str) -> threading.Semaphore:
        with self._lock:
            limit = self._limits.get(host)
            if limit is None:
                limit = self._limits[host] = threading.Semaphore(self._http.max_per_host)
            return limit

    def _note_silence(self, host: str) -> None:
        with self._lock:
            self._silent.add(host)
            is_cut_off = len(self._silent) >= MAX_SILENT_HOSTS
        if is_cut_off:
            raise StorageUnavailableError(
                "Nothing is heard of any host.",
                expected="answers of the hosts that images are behind",
                found=f"{MAX_SILENT_HOSTS} hosts in a row without one",
                where=host,
                fix="check this machine's network, then run again: finished work is kept",
            )


def _copy(answer: _Answer, target: IO[bytes], max_bytes: int, extend: Callable[[], None]) -> None:
    """Write an answer's body into a file, from its start, and hear of each MiB."""
    announced = answer.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large(max_bytes)
    target.seek(0)
    target.truncate()
    number = 0
    for chunk in answer.chunks:
        before, number = number, number + len(chunk)
        if number > max_bytes:
            raise too_large(max_bytes)
        target.write(chunk)
        if before // _PACE_BYTES != number // _PACE_BYTES:
            extend()


def _refuse(status: int, retry_after: str) -> NoReturn:
    detail = f"HTTP {status}"
    if status in {404, 410}:
        raise NotThereError(detail, status)
    if status in {401, 403}:
        raise RefusedError(detail, status)
    wait_s = float(retry_after[:6]) if retry_after.isdecimal() else 0.0
    raise FetchError(detail, status, may_pass=status in _MAY_PASS or status >= 500, wait_s=wait_s)


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or "@" in parts.netloc:
        raise RefusedError("no address to fetch from")
    return parts


def _host_of(parts: SplitResult) -> str:
    host = parts.hostname or ""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host.encode("ascii", "backslashreplace").decode()  # which no name server knows


def _port_of(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _target_of(parts: SplitResult) -> str:
    return quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE + '?')}" if parts.query else "")
