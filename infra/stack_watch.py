"""Starts a service of the local stack again when it has died, at the same address; ``local_stack.py up`` starts it.

A service that dies again soon is started again later and later. ``down`` stops this program first.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from stack_processes import Service, running, start
from stack_services import services
from stack_settings import read_settings, say

LOOK_EVERY_S = 2.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 120.0
"""A service that has lived so long has started well: its next end is the first again."""


@dataclass
class Watched:
    """A service and when it may be started again."""

    wait_s: float = FIRST_WAIT_S
    not_before: float = 0.0
    seen_dead: bool = False

    def is_due(self, now: float, *, is_running: bool) -> bool:
        """Note whether the service runs, and return whether it is to be started now."""
        if is_running:
            if now - self.not_before > STEADY_S:
                self.wait_s = FIRST_WAIT_S
            self.seen_dead = False
            return False
        if not self.seen_dead:
            self.seen_dead, self.not_before = True, now + self.wait_s
            self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)
        return now >= self.not_before


def main() -> None:
    """Watch until stopped."""
    known = services(read_settings())
    watched = {name: Watched() for name in known}
    while True:
        for name, service in known.items():
            if watched[name].is_due(time.monotonic(), is_running=running(name) is not None):
                restart(service)
        time.sleep(LOOK_EVERY_S)


def restart(service: Service) -> None:
    """Start a service that has died; what keeps it from starting is said, and tried again.

    A process between ends at once, so that the service is no child of this program: stopping this one would end it too.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    try:
        say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {service.name} has died and is started again")
        start(service)
    finally:  # `fail` has said why, if it did not start: another program at its port, say
        os._exit(0)


if __name__ == "__main__":
    main()
