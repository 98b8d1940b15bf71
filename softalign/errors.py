"""The SoftAlignError family: every error says what was expected, what was found, where, and what to do."""

from __future__ import annotations

import errno

from softalign.credentials import without_secrets

_OS_FIXES = {
    errno.ENOSPC: "make room, then run again: finished work is kept",
    errno.EDQUOT: "make room within your quota, then run again: finished work is kept",
    errno.ENOENT: "check the path",
    errno.EACCES: "choose a place you may read and write, or change its permissions",
    errno.EPERM: "choose a place you may read and write, or change its permissions",
    errno.EROFS: "choose a place that can be written: this one is read-only",
    errno.EADDRINUSE: "choose another port, or stop the program that has this one",
    errno.EMFILE: "allow more open files (`ulimit -n 4096`), then run again",
}
"""What to do about errors of the operating system that people meet."""


def os_error_text(error: OSError) -> str:
    """Return an error of the operating system in words, with its place, without its number."""
    text = error.strerror or str(error) or type(error).__name__
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([text, *([" and ".join(places)] if places else [])])


def os_error_fix(error: OSError) -> str:
    """Return what can be done about an error of the operating system; empty where nothing is known."""
    return _OS_FIXES.get(error.errno or 0, "")


class SoftAlignError(Exception):
    """Base of all errors this library raises on purpose; none shows what of an address is secret.

    Args:
        what: one sentence: what went wrong.
        expected: what would have been right.
        found: what was there instead.
        where: the URI, key, field or step.
        fix: what the reader can do about it.
    """

    exit_code = 1
    """Exit code of the command line for this error (2: bad usage or configuration, 75: preempted)."""
    is_retriable = False
    """True where the same call may succeed later (a network fault), so that a task's retry is worth its time."""

    def __init__(self, what: str, *, expected: str = "", found: str = "", where: str = "", fix: str = "") -> None:
        shown = (without_secrets(text) for text in (what, expected, found, where, fix))
        self.what, self.expected, self.found, self.where, self.fix = shown
        details = (("expected", self.expected), ("found", self.found), ("where", self.where), ("to do", self.fix))
        super().__init__("\n".join([self.what, *(f"  {name}: {text}" for name, text in details if text)]))


class ConfigError(SoftAlignError):
    """A recipe, an option or a combination of them that cannot work; found before anything ran."""

    exit_code = 2


class MissingInputError(SoftAlignError):
    """Something a stage reads is not there: an earlier stage, a store, a file, a registered version."""


class UndetectedError(MissingInputError):
    """Images of an evaluation are drawn and kept; what detects in them is not there yet."""


class DataError(SoftAlignError):
    """Data that was read but cannot be used."""


class IntegrityError(SoftAlignError):
    """Stored bytes are not the bytes that were recorded, or other content holds the same place."""


class CompatibilityError(SoftAlignError):
    """Good artifacts that do not belong together, such as an adapter and another base model; or of another format."""


class TrainingError(SoftAlignError):
    """Training cannot go on (non-finite losses, no usable pairs)."""


class WorkerDiedError(SoftAlignError):
    """A supervised child process died or hung; carries its last lines."""

    is_retriable = True


class UnexpectedError(SoftAlignError):
    """A bug, here or in what this builds on: a child process met an error nobody expected; carries its traceback."""


class StorageUnavailableError(SoftAlignError):
    """A store or registry did not answer; retrying later may help."""

    is_retriable = True


class LeaseLostError(SoftAlignError):
    """Another process may have gone on with what this one worked on: it was silent or cut off for too long."""

    is_retriable = True


class RegistryError(SoftAlignError):
    """The model registry refused or does not know what was asked for."""


class PreemptedError(SoftAlignError):
    """Stopped on request after a checkpoint was written; running again continues there."""

    exit_code = 75
    is_retriable = True
