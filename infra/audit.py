"""``make audit``: known advisories of what is installed, asked from PyPI by pip-audit, without the accepted ones.

Exit code 0: none but what ``infra/advisories.toml`` accepts, or the service was not reached, and that is said;
1: others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCEPTED = Path(__file__).with_name("advisories.toml")
FIELDS = {"id", "package", "reason", "date"}
NOT_REACHED = "The advisory service was not reached: nothing was audited"


@dataclass(frozen=True, slots=True)
class Advisory:
    """One advisory of one installed package."""

    package: str
    version: str
    names: frozenset[str]
    fixed_in: tuple[str, ...]

    def to_text(self) -> str:
        """Return it in a line, with the versions that are mended."""
        mended = f"mended in {', '.join(self.fixed_in)}" if self.fixed_in else "no mended version yet"
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}; {mended}"


def main() -> int:
    """Audit this environment by the pip-audit named on the command line, say what was found, return the exit code."""
    packages = sysconfig.get_path("purelib")
    command = [sys.argv[1], "--path", packages, "--skip-editable", "--format=json"]
    result = subprocess.run([*command, "--progress-spinner=off"], capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    code, lines = verdict(result.stdout, accepted_ids(tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    if lines == [NOT_REACHED]:
        sys.stderr.write(result.stderr[-1000:])
    return code


def accepted_ids(table: dict[str, Any]) -> frozenset[str]:
    """Return the accepted advisories.

    Raises:
        ValueError: a row lacks a field, or its reason is empty.
    """
    for row in table["accepted"]:
        if set(row) != FIELDS or not str(row["reason"]).strip():
            raise ValueError(f"{ACCEPTED.name}: a row needs {', '.join(sorted(FIELDS))}, and a reason: {row}")
    return frozenset(row["id"] for row in table["accepted"])


def verdict(answer: str, accepted: frozenset[str]) -> tuple[int, list[str]]:
    """Return exit code and lines for pip-audit's JSON.

    Where the service is a mirror without advisories, or away, pip-audit ends without a document or skips every package.
    """
    packages = json.loads(answer)["dependencies"] if answer.strip() else []
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        return 0, [NOT_REACHED]
    found = list(_advisories(audited))
    open_ones = [one for one in found if not one.names & accepted]
    unused = accepted - frozenset().union(*(one.names for one in found))
    lines = [f"{len(audited)} packages audited, {len(packages) - len(audited)} unknown to the service"]
    lines += [one.to_text() for one in open_ones]
    lines += [f"{name} is accepted in {ACCEPTED.name}, but no longer found: remove the row" for name in sorted(unused)]
    lines.append(f"{len(open_ones)} open, {len(found) - len(open_ones)} accepted")
    return (1 if open_ones else 0), lines


def _advisories(packages: list[dict[str, Any]]) -> Iterator[Advisory]:
    for package in packages:
        for vulnerability in package["vulns"]:
            names = frozenset((vulnerability["id"], *vulnerability.get("aliases", ())))
            yield Advisory(package["name"], package["version"], names, tuple(vulnerability.get("fix_versions", ())))


if __name__ == "__main__":
    sys.exit(main())
