"""How a command leaves when it is told to (Ctrl-C, SIGTERM, a closed terminal): one line, code 75, nobody left.

The main thread gets an exception, so that whoever supervises children stops them on the way out. A second thread hears
the same signals whatever the main thread is at: it ends the way out when that takes too long, and at a second Ctrl-C.
Ending at once is safe anywhere: what is published or checkpointed is whole at any moment.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from softalign.errors import PreemptedError
from softalign.processes.structured import is_structured, json_line

STDERR = 2
_HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()  # Windows has neither it nor signal masks
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *_HANGUP)
LEAVING_S = 12.0
"""How long the way out may take: a child's last step and checkpoint, and word to a server."""
CHECKPOINT_S = 36.0
"""The same while a child works that SIGTERM or a closed terminal stopped: nobody waits at the screen, so a slow step
may end, and its checkpoint be uploaded (``launch.TERMINATION_GRACE_S``)."""
ONE_KEYPRESS_S = 0.5
"""A wrapper may hand on the Ctrl-C that the terminal sent already; one that comes later is a second one."""
CHECK_INTERVAL_S = 0.2
DESCRIBING_S = 1.5
"""How long it may take to find out what is kept."""
SOMETHING_KEPT = "stopped: what is published and checkpointed is kept; the same command goes on from there"
NOTHING_BEGUN = "stopped before anything began; the same command starts again"


@contextmanager
def shielded() -> Iterator[None]:
    """Start processes that Ctrl-C and a closing terminal do not reach, though they are in its foreground group.

    A process inherits what the thread that starts it blocks. It is stopped by whoever started it, in order.
    """
    if not _HANGUP:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_HANGUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_signals() -> None:
    """Keep stop signals waiting until ``leave_at_once``, across an exec too."""
    if _HANGUP:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def leave_at_once() -> None:
    """Let the stop signals end this process with a line from now on: for imports, which leave nothing to put in order.

    Signals that this process was started to ignore (``nohup``, a script's background) stay ignored, here and below.
    """

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        with suppress(OSError):  # the terminal may be gone
            os.write(STDERR, f"{NOTHING_BEGUN}\n".encode())
        os._exit(PreemptedError.exit_code)

    for number in _heeded():
        signal.signal(number, leave)
    if _HANGUP:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Do so within the block."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    is_main = threading.current_thread() is threading.main_thread()  # signals are the main thread's
    if is_main:
        leave_at_once()
    try:
        yield
    finally:
        if is_main:
            _restore(before)


@contextmanager
def leaving_in_order(describe: Callable[[], str]) -> Iterator[None]:
    """Let the stop signals end this process with one line and exit code 75, its children first.

    Args:
        describe: returns the line; the main thread has left the block by then.

    Raises:
        SystemExit: a signal came, whatever the block raised on its way out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    leaving = _Leaving(describe)
    atexit.register(leaving.end)  # after what the block registers
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in _heeded():
        signal.signal(number, leaving.begin)
    fd_before = signal.set_wakeup_fd(leaving.writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=leaving.watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        if leaving.has_begun.is_set():  # the thread watches on, until this process is gone
            leaving.say()
            raise SystemExit(PreemptedError.exit_code)
        signal.set_wakeup_fd(fd_before)
        _restore(before)
        leaving.writer.close()
        watcher.join()
        leaving.close()


def _heeded() -> list[signal.Signals]:
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class _Leaving:
    """The way out of one process."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe, self._stderr = describe, os.dup(STDERR)
        self._lock = threading.Lock()
        self._is_main_told = self._is_said = False
        self.has_begun = threading.Event()
        # open as long as this object, which ``atexit`` holds; not a pipe, as Windows selects sockets only
        self._reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)

    def close(self) -> None:
        """Take it back: the process stays."""
        atexit.unregister(self.end)
        self._reader.close()
        os.close(self._stderr)

    def begin(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal in the main thread; further ones do not disturb the way out."""
        if not self._is_main_told:
            self._is_main_told = True
            self._hush()
            raise SystemExit(PreemptedError.exit_code)

    def _hush(self) -> None:
        """Show nothing but the line from now on: what others say of being interrupted is no news."""
        self.has_begun.set()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)

    def say(self, line: str | None = None) -> None:
        """Write the line, or what is kept, unless one was written."""
        text = "" if self._is_said else line or self._kept_line()
        with self._lock, suppress(OSError):  # the terminal may be gone
            if not self._is_said:
                self._is_said = True
                # on a terminal the cursor stands behind ^C, or behind a bar
                shown = json_line(text) if is_structured() else ("\n" if os.isatty(self._stderr) else "") + text
                os.write(self._stderr, f"{shown}\n".encode())

    def _kept_line(self) -> str:
        """Return what is kept; where finding it out takes too long or fails, that something is."""
        lines: list[str] = []
        thread = threading.Thread(target=lambda: lines.append(self._describe()), daemon=True)
        thread.start()
        thread.join(DESCRIBING_S)
        return lines[0] if lines else SOMETHING_KEPT

    def watch(self) -> None:
        """Hear the signals, whoever handles them in the main thread, and see to it that the process ends."""
        first, begun_at = 0, 0.0
        while True:
            is_readable, _, _ = select.select([self._reader], [], [], CHECK_INTERVAL_S if first else None)
            heard = self._reader.recv(64) if is_readable else b""
            if is_readable and not heard:
                return  # the block was left
            now = time.monotonic()
            if not first:
                first, begun_at = next((number for number in heard if number in STOP_SIGNALS), 0), now
                if first:
                    self._hush()
            elif signal.SIGINT in heard and now - begun_at > ONE_KEYPRESS_S:
                self.end(SOMETHING_KEPT)
            elif now - begun_at > _limit_s(first):
                self.end()

    def end(self, line: str | None = None) -> NoReturn:
        """End this process and all below it, without taking apart what was imported: that takes seconds."""
        import psutil

        self.say(line)
        below = psutil.Process().children(recursive=True)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=1.0)  # none is left as a zombie to whoever comes to be its parent
        os._exit(PreemptedError.exit_code)


def _limit_s(first: int) -> float:
    return CHECKPOINT_S if first != signal.SIGINT and _is_child_working() else LEAVING_S


def _is_child_working() -> bool:
    import psutil

    def is_worker(child: psutil.Process) -> bool:
        try:
            return "softalign.stages.worker" in child.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    return any(is_worker(child) for child in psutil.Process().children())
