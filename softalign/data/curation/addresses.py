"""Which network addresses images are fetched from: names are looked up here, and what was checked is connected to."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefusedError(Exception):
    """A host has no address that may be connected to."""


class UnknownHostError(Exception):
    """A host has no address at all."""


class Deadline(threading.local):
    """When this thread's present request must have ended, in ``time.monotonic`` seconds."""

    at = 0.0

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Return the seconds that an operation may take.

        Raises:
            Exception: ``error``, where none is left.
        """
        seconds = self.at - time.monotonic()
        if seconds <= 0:
            raise error("no time is left")
        return seconds if timeout is None else min(timeout, seconds)


@dataclass(frozen=True, slots=True)
class CheckedBackend(httpcore.NetworkBackend):
    """Connects to public addresses, and to one host and port that is trusted, within a deadline.

    A name is looked up once: what was checked is connected to, so no second answer can lead elsewhere.

    Attributes:
        deadline: of the calling thread's request.
        trusted: host and port that a recipe names itself; ``("", 0)``: none.
        allows_private: addresses of this machine and of private networks are allowed too.
    """

    deadline: Deadline
    trusted: tuple[str, int] = ("", 0)
    allows_private: bool = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address of a host that is allowed and answers.

        Raises:
            UnknownHostError: it has no address.
            AddressRefusedError: none of its addresses is allowed.
            httpcore.ConnectError, httpcore.ConnectTimeout: none answers.
        """
        addresses = self._addresses(host, port)
        for index, address in enumerate(addresses):
            seconds = self.deadline.left(timeout, httpcore.ConnectTimeout)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if index == len(addresses) - 1:
                    raise
            else:
                return TimedStream(stream, self.deadline)
        raise AddressRefusedError

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            raise UnknownHostError from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if self.allows_private or (host, port) == self.trusted:
            return addresses
        return [address for address in addresses if is_public(address)]


class TimedStream(httpcore.NetworkStream):
    """A connection whose every operation ends at the calling thread's deadline: a server that drips gets no more."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come, at most so many bytes."""
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes."""
        self._stream.write(buffer, self._deadline.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """End the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection, secured."""
        seconds = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return what is known of the connection."""
        return self._stream.get_extra_info(info)


def is_public(address: str) -> bool:
    """Whether an address is one of the public network, also where another one is wrapped in it (IPv4 in IPv6)."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            wrapped = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return found.is_global and not found.is_multicast
