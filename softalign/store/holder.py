"""Who holds a lease, as its file says it: a process of a machine, which this machine may know to be gone."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from pathlib import Path
from typing import Self

from softalign.artifacts import Frozen


class Held(Frozen):
    """A lease that was taken: its name and the number that it was taken with, as child processes are told of it."""

    name: str
    number: int


class Holder(Frozen):
    """Who holds a lease: the content of a numbered file.

    Attributes:
        owner: of all attempts to take a lease this one's own name.
        node: the machine's name, for people.
        pid: the process, on its machine.
        process: tells this process from all others of all machines; empty: not known here.
        counter: of the rewrites.
        ttl_s: seconds of silence after which the next one takes over.
        is_released: the next one may take it at once.
    """

    owner: str
    node: str
    pid: int
    process: str
    counter: int = 0
    ttl_s: float
    is_released: bool = False

    @classmethod
    def here(cls, ttl_s: float) -> Self:
        """Return this process as a holder."""
        pid = os.getpid()
        return cls(owner=uuid.uuid4().hex, node=node_name(), pid=pid, process=_process_of(pid), ttl_s=ttl_s)

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """Return the holder in a file; None where a machine that lost its power left no whole one."""
        try:
            return cls.model_validate_json(data)
        except ValueError:
            return None

    def to_json(self) -> bytes:
        """Return the stored form."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine that is gone; False where that cannot be known."""
        space = _process_space()
        if not space or not self.process.startswith(f"{space}/"):
            return False
        found = _process_of(self.pid)
        return found != self.process if found else not _exists(self.pid)

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.node}, process {self.pid}"


def node_name() -> str:
    """Return what this machine is called where machines are told apart (``SOFTALIGN_NODE``, or its host name)."""
    return os.environ.get("SOFTALIGN_NODE") or socket.gethostname()


@cache
def _process_space() -> str:
    """Return what tells the process numbers of this machine, since it started, from all others; empty: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_of(pid: int) -> str:
    """Return a process of this machine, by its number and start; empty where there is none, or it cannot be seen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
    start = "ended" if state in "ZX" else fields[18]
    return f"{_process_space()}/{pid}/{start}" if _process_space() else ""


def _exists(pid: int) -> bool:
    """Return whether a process lives, also where the system hides other users' processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
