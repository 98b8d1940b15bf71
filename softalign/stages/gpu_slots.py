"""Whose GPUs: a stage that uses a model holds a lease for each GPU that it works on, and its processes see no others.

The leases lie in the store (``leases/gpu/NODE/INDEX``), so that all runs on a machine that share a store agree, whoever
started them: shells, workers of several pools, containers that are told the same ``SOFTALIGN_NODE``. Who needs several
waits for them alone, at the head of a queue that is a lease too: nobody waits while holding what another one waits for.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from softalign.config.runtime import Runtime
from softalign.errors import ConfigError
from softalign.processes.launch import is_of_torchrun
from softalign.processes.metering import note_slot_wait
from softalign.stages.turns import Turn
from softalign.store.holder import node_name
from softalign.store.leases import POLLS_PER_TTL, SAID_EVERY_S, Contender, Lease, waited_for
from softalign.store.store import Store

logger = logging.getLogger(__name__)

SLOTS_VARIABLE = "SOFTALIGN_GPU_SLOTS"
"""How many stages with a model may work at a time on this machine, on whatever device; 0: as many as come."""
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
QUERY_TIMEOUT_S = 30.0


def visible_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process may see, as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs."""
    chosen = os.environ.get(DEVICES_VARIABLE)
    if chosen is None:
        return tuple(str(index) for index in range(_num_devices()))
    names = [name.strip() for name in chosen.split(",")]
    end = next((index for index, name in enumerate(names) if name in ("", "-1")), len(names))  # as CUDA reads it
    return tuple(names[:end])


def _num_devices() -> int:
    """Return how many GPUs the driver shows, without loading torch."""
    query = shutil.which("nvidia-smi")
    if query is None:
        return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    try:
        listed = subprocess.run(  # noqa: S603
            [query, "-L"], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("The GPUs are not known, so none is held: nvidia-smi did not answer: %s", error)
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def num_slots(runtime: Runtime) -> int:
    """Return how many slots this machine has for a run; 0: nothing is limited.

    Raises:
        ConfigError: SOFTALIGN_GPU_SLOTS is not a number.
    """
    said = os.environ.get(SLOTS_VARIABLE, "").strip()
    if not said:
        return 0 if runtime.device == "cpu" else len(visible_devices())
    if not said.isdecimal():
        raise ConfigError(
            "The number of GPU slots is not a number.", expected="0 or more", found=said, where=SLOTS_VARIABLE
        )
    return int(said)


@contextmanager
def gpus_of(store: Store, runtime: Runtime, number: int, what: str) -> Iterator[Turn]:
    """Hold some GPUs of this machine, waiting for them as long as it takes.

    Args:
        store: where the leases lie.
        runtime: on which device the work is.
        number: how many processes it has here.
        what: who asks, in the log's lines.

    Yields:
        The leases, and the environment in which the processes see these GPUs; empty where nothing is limited, or where
        torchrun has given the GPUs out.

    Raises:
        ConfigError: there are not so many.
        StorageUnavailableError: the store did not answer.
    """
    total = 0 if is_of_torchrun() else num_slots(runtime)
    if not total:
        yield Turn()
        return
    if number > total:
        raise ConfigError(
            "There are fewer GPUs here than processes.",
            expected=f"runtime.num_processes of {total} at most",
            found=str(number),
            where=node_name(),
            fix=f"set it, or make more visible ({DEVICES_VARIABLE}, {SLOTS_VARIABLE})",
        )
    devices = visible_devices()
    names = [devices[index % len(devices)] if devices else "" for index in range(total)]
    with ExitStack() as kept:
        asked = time.monotonic()
        taken = _take(store, _slot_names(names), number, what, kept)
        note_slot_wait(time.monotonic() - asked)
        chosen = ",".join(dict.fromkeys(names[index] for index in sorted(taken)))
        yield Turn(tuple(taken.values()), {DEVICES_VARIABLE: chosen} if devices else {})


def _slot_names(devices: list[str]) -> list[str]:
    """Return the slots' names: their devices', and numbers where several share one or there is none."""
    if "" in devices or len(set(devices)) < len(devices):
        return [str(index) for index in range(len(devices))]
    return devices


def _take(store: Store, slots: list[str], number: int, what: str, kept: ExitStack) -> dict[int, Lease]:
    """Take some slots, in their order, and keep them with ``kept``; who waits for slots alone waits for others."""
    root = f"gpu/{node_name()}"
    queue = waited_for(Contender(store.uri, f"{root}/queue"), f"GPUs of {node_name()} for {what}")
    if queue is None:
        raise AssertionError("a wait without an end has ended")
    contenders = [Contender(store.uri, f"{root}/{slot}") for slot in slots]
    taken: dict[int, Lease] = {}
    begun, num_said = time.monotonic(), 0
    with queue.kept():
        while True:
            for index, contender in enumerate(contenders):
                if len(taken) < number and index not in taken and (lease := contender.attempt()):
                    taken[index] = kept.enter_context(lease.kept())
            if len(taken) == number:
                return taken
            waited_s = time.monotonic() - begun
            if waited_s >= num_said * SAID_EVERY_S:
                _say(contenders, taken, number, what, waited_s)
                num_said += 1
            queue.require()
            time.sleep(queue.ttl_s / POLLS_PER_TTL)


def _say(contenders: list[Contender], taken: dict[int, Lease], number: int, what: str, waited_s: float) -> None:
    held = [f"{one.name} by {one.holder}" for index, one in enumerate(contenders) if index not in taken]
    logger.info(
        "%s waits for %d of %d GPUs (held: %s); %.0f s so far",
        what,
        number - len(taken),
        len(contenders),
        ", ".join(held),
        waited_s,
    )
