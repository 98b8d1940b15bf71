"""Run a long, talkative command and say every few seconds how far it is: ``with_progress.py LOG WHAT -- COMMAND...``.

All its output goes to the file LOG; the last of it is shown where the command fails. Standard library alone: it runs
before anything is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

INTERVAL_S = 5.0
LATER_FACTOR = 3
"""After a minute of lines every INTERVAL_S they come so many times less often."""
SHOWN_CHARS = 60
TAIL_LINES = 30
SAYS = re.compile(r"^\s*(Collecting|Downloading|Building|Installing|Using cached|Preparing)\b.*")


def run(log: Path, what: str, command: Sequence[str], interval_s: float = INTERVAL_S) -> int:
    """Run a command and return its exit code.

    Args:
        log: takes all output.
        what: said first, and again with every line of progress.
        command: program and arguments.
        interval_s: between two lines of progress.
    """
    started, latest, is_over = time.monotonic(), [""], threading.Event()

    def report() -> None:
        while not is_over.wait(interval_s * (LATER_FACTOR if time.monotonic() - started > 60 else 1)):
            say(f"  ... {time.monotonic() - started:.0f} s{latest[0]}")

    say(what)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # noqa: S603  # what the Makefile asks for
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout or ():
            file.write(line)
            if SAYS.match(line):
                latest[0] = f"  {short(line)}"
        code = process.wait()
    is_over.set()
    thread.join()
    if code:
        tail = log.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]
        say("\n".join([*tail, f"failed with exit code {code}; everything it said is in {log}"]))
    else:
        say(f"  done in {time.monotonic() - started:.0f} s")
    return code


def short(line: str) -> str:
    """Return a line of pip's as progress shows it: of the list of all packages, how many there are."""
    head, _, packages = line.strip().partition("Installing collected packages: ")
    return f"Installing {packages.count(',') + 1} packages" if packages and not head else line.strip()[:SHOWN_CHARS]


def say(line: str) -> None:
    """Write a line at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Run what a command line asks for and return the exit code."""
    if len(arguments) < 4 or arguments[2] != "--":
        say("usage: with_progress.py LOG WHAT -- COMMAND...")
        return 2
    return run(Path(arguments[0]), arguments[1], arguments[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
