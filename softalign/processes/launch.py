"""The processes of one stage: how many, with which part of torchrun's environment, and that they end together.

Each rank runs the same command. The environment is torchrun's (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), so a stage that was started by torchrun itself finds what it would be given here, and starts
one process with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from softalign.config.runtime import Runtime
from softalign.errors import ConfigError, PreemptedError
from softalign.processes.leaving import shielded

TERMINATION_GRACE_S = 30.0
"""How long ranks may take to checkpoint after SIGTERM, or after the first of them left, before they are killed."""
NODE_RANK_VARIABLES = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
"""Where a machine's number is looked for, in this order."""


def rank_environments(runtime: Runtime) -> list[dict[str, str]]:
    """Return what each process of this machine has in its environment besides the inherited one.

    Raises:
        ConfigError: there are several machines, and none of NODE_RANK_VARIABLES says which one this is.
    """
    world_size = runtime.num_processes * runtime.num_nodes
    if is_of_torchrun():
        if world_size > 1:
            raise ConfigError(
                "The number of processes is said twice.",
                expected="runtime.num_processes and runtime.num_nodes of 1 inside torchrun",
                found=f"{runtime.num_processes} x {runtime.num_nodes}, and WORLD_SIZE {os.environ['WORLD_SIZE']}",
            )
        return [{}]
    if world_size == 1:
        return [{}]
    node_rank = _node_rank(runtime.num_nodes)
    address, _, port = (runtime.rendezvous_endpoint or f"127.0.0.1:{_free_port()}").rpartition(":")
    shared = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(runtime.num_processes),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    first = node_rank * runtime.num_processes
    return [{**shared, "RANK": str(first + local), "LOCAL_RANK": str(local)} for local in range(runtime.num_processes)]


def require_work_for_all(num_processes: int, batch_size: int) -> None:
    """Refuse more processes than images: every grid has at least as many pairs as images, so each rank gets one.

    Raises:
        ConfigError: there are more.
    """
    if num_processes > batch_size:
        raise ConfigError(
            "There are more training processes than images in a batch.",
            expected=f"at most {batch_size}",
            found=f"{num_processes}",
            fix="raise train.batch_size or lower runtime.num_processes",
        )


def is_of_torchrun() -> bool:
    """Return whether torchrun started this process, as one of several or alone."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def leads(runtime: Runtime) -> bool:
    """Return whether this process is, or starts, rank 0 of a training: the others work along with that.

    Raises:
        ConfigError: there are several machines, and none of NODE_RANK_VARIABLES says which one this is.
    """
    return os.environ["RANK"] == "0" if is_of_torchrun() else _node_rank(runtime.num_nodes) == 0


def _node_rank(num_nodes: int) -> int:
    if num_nodes == 1:
        return 0
    found = next((os.environ[name] for name in NODE_RANK_VARIABLES if name in os.environ), "")
    if not found.isdigit() or int(found) >= num_nodes:
        raise ConfigError(
            "It is not known which of the machines this is.",
            expected=f"NODE_RANK from 0 to {num_nodes - 1}",
            found=found or "nothing",
            where="environment",
            fix=f"set NODE_RANK on each machine ({', '.join(NODE_RANK_VARIABLES)} are read)",
        )
    return int(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RankProcesses:
    """The running processes of this machine.

    Args:
        command: what each of them runs.
        environments: one for each, over ``environment``.
        environment: what they have in common.
        request: what each of them reads from its standard input.
    """

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[dict[str, str]],
        environment: dict[str, str],
        request: str = "",
    ) -> None:
        with shielded():  # from a terminal's Ctrl-C, which comes here too: the parent stops them in order
            self._children = [
                subprocess.Popen(  # noqa: S603
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**environment, **own},
                    encoding="utf-8",
                    errors="replace",
                )
                for own in environments
            ]
        for child in self._children:
            threading.Thread(target=_feed, args=(child.stdin, request), daemon=True).start()
        self._first_left: float | None = None
        self.failed: tuple[int, int] | None = None

    @property
    def outputs(self) -> list[IO[str]]:
        """The standard outputs of all, in their order."""
        return [child.stdout for child in self._children if child.stdout]

    @property
    def errors(self) -> list[IO[str]]:
        """The standard errors of all, in their order."""
        return [child.stderr for child in self._children if child.stderr]

    def __len__(self) -> int:
        """How many processes there are."""
        return len(self._children)

    def check(self) -> None:
        """End all ranks once one has failed, or when some have left and the others do not follow."""
        codes = [child.poll() for child in self._children]
        left = [(rank, code) for rank, code in enumerate(codes) if code is not None]
        bad = [(rank, code) for rank, code in left if code not in {0, PreemptedError.exit_code}]
        if bad and self.failed is None:
            self.failed = min(bad, key=lambda found: found[1])  # a killed one before those that failed for lack of it
        if left and self._first_left is None:
            self._first_left = time.monotonic()
        waited_s = 0.0 if self._first_left is None else time.monotonic() - self._first_left
        if len(left) < len(codes) and (bad or waited_s > TERMINATION_GRACE_S):
            self.kill()

    def exit_code(self) -> int:
        """Wait for all; return the code of the first that failed, else that of a preempted one, else 0."""
        codes = [child.wait() for child in self._children]
        self.check()
        return self.failed[1] if self.failed else max(codes)

    def stop(self) -> bool:
        """Ask all to checkpoint and leave; return whether they did, or were killed after TERMINATION_GRACE_S."""
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + TERMINATION_GRACE_S
        has_left = True
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                has_left = False
                self.kill()
        return has_left

    def kill(self) -> None:
        """Kill what is left, at once: checkpoints are whole at any moment."""
        for child in self._children:
            if child.poll() is None:
                child.kill()


def _feed(stream: IO[str], request: str) -> None:
    """Write a request and end the stream; a child that is gone reads nothing, and its death is noticed elsewhere."""
    with suppress(OSError), stream:
        stream.write(request)
