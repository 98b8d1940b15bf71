"""What one check found, and the whole as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from softalign.artifacts import Frozen
from softalign.errors import SoftAlignError

Status = Literal["ok", "warning", "failed", "skipped"]
MARKS: dict[Status, str] = {"ok": "ok", "warning": "WARN", "failed": "FAIL", "skipped": "-"}


class Finding(Frozen):
    """What one check found.

    Attributes:
        check: its name.
        status: ``failed`` where runs would fail or go wrong, ``warning`` where they may, ``skipped`` where there is
            nothing to say.
        found: what was there, in one line.
        fix: what to do about it; empty where all is well.
        is_fixable: ``softalign doctor --fix`` mends it.
        is_fixed: it was mended just now.
    """

    check: str
    status: Status
    found: str
    fix: str = ""
    is_fixable: bool = False
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A check, and how what it found is mended where that is safe."""

    name: str
    look: Callable[[], Finding]
    mend: Callable[[], object] | None = None


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, status="ok", found=found)


def skipped(check: str, found: str) -> Finding:
    """Return that there is nothing to check, and why."""
    return Finding(check=check, status="skipped", found=found)


def warning(check: str, found: str, fix: str, *, is_fixable: bool = False) -> Finding:
    """Return what may go wrong."""
    return Finding(check=check, status="warning", found=found, fix=fix, is_fixable=is_fixable)


def failed(check: str, found: str, fix: str, *, is_fixable: bool = False) -> Finding:
    """Return what is wrong."""
    return Finding(check=check, status="failed", found=found, fix=fix, is_fixable=is_fixable)


def of_error(check: str, error: SoftAlignError) -> Finding:
    """Return an error as what a check found."""
    details = ", ".join(text for text in (error.found, error.where) if text)
    text = " ".join(f"{error.what} {f'({details})' if details else ''}".split())
    return failed(check, text, error.fix)


def examine(checks: Iterable[Check], *, is_mending: bool) -> tuple[Finding, ...]:
    """Return what every check found; with ``is_mending`` after mending what can be mended."""
    return tuple(_examined(check, is_mending=is_mending) for check in checks)


def _examined(check: Check, *, is_mending: bool) -> Finding:
    found = _look(check)
    if not (is_mending and found.is_fixable and check.mend is not None):
        return found
    try:
        check.mend()
    except SoftAlignError as error:
        return of_error(check.name, error)
    after = _look(check)
    return after.model_copy(update={"is_fixed": after.status == "ok"})


def _look(check: Check) -> Finding:
    try:
        return check.look()
    except SoftAlignError as error:
        return of_error(check.name, error)


def findings_text(findings: Iterable[Finding]) -> str:
    """Return all findings for people: a line each, what to do below it, and a count at the end."""
    listed = tuple(findings)
    width = max(len(one.check) for one in listed)
    lines = []
    for one in listed:
        mended = " (mended now)" if one.is_fixed else ""
        lines.append(f"{MARKS[one.status]:<5}{one.check:<{width}}  {one.found}{mended}")
        if one.fix:
            lines.append(
                f"{'':<5}{'':<{width}}  to do: {one.fix}{'; `softalign doctor --fix` does' if one.is_fixable else ''}"
            )
    num_failed = sum(one.status == "failed" for one in listed)
    num_warned = sum(one.status == "warning" for one in listed)
    said = f"{num_failed} failed, {num_warned} warned of" if num_failed or num_warned else "all well"
    return "\n".join([*lines, f"{len(listed)} checks: {said}"])
