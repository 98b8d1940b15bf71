"""What a chaos run does to a stack: each fault takes what is there at that moment, and says what it hit."""

import errno
import json
import os
import signal
from contextlib import suppress

import psutil

TRAINER = "softalign.stages.worker"
CLOCK_OFFSETS_S = (600, -600, 0)
"""Beyond a lease's life and the silence after which a run counts as lost; object stores refuse more than 900."""


def service(stack, name):
    """Return a service's process, or none while it is being started again."""
    try:
        return [psutil.Process(json.loads((stack.state / f"{name}.process.json").read_text())["pid"])]
    except (OSError, ValueError, psutil.NoSuchProcess):
        return []


def processes_of_runs(stack):
    """Return the processes that work on flow runs of this stack, by what they are: flows, and their children."""
    flows, children = [], []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SOFTALIGN_STACK_SERVICE", "").startswith(f"{stack.state}:worker"):
                line = " ".join(process.cmdline())
                (children if TRAINER in line else flows if "prefect.engine" in line else []).append(process)
        except (psutil.Error, OSError):
            continue
    return flows, children


def send(processes, number):
    hit = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            hit.append(process.pid)
    return hit


def kill_worker(stack, _chance):
    return send(service(stack, "worker-gpu"), signal.SIGKILL)


def stop_worker(stack, _chance):
    return send(service(stack, "worker-gpu"), signal.SIGTERM)


def kill_worker_and_flow(stack, _chance):
    flows, children = processes_of_runs(stack)
    return send([*service(stack, "worker-gpu"), *flows, *children], signal.SIGKILL) if flows else []


def kill_flow(stack, _chance):
    return send(processes_of_runs(stack)[0], signal.SIGKILL)


def stop_flow(stack, _chance):
    return send(processes_of_runs(stack)[0], signal.SIGTERM)


def kill_child(stack, _chance):
    return send(processes_of_runs(stack)[1], signal.SIGKILL)


def kill_mlflow(stack, _chance):
    return send(service(stack, "mlflow"), signal.SIGKILL)


def kill_s3(stack, _chance):
    return send(service(stack, "s3"), signal.SIGKILL)


def kill_prefect(stack, _chance):
    return send(service(stack, "prefect"), signal.SIGKILL)


def kill_postgres(stack, _chance):
    """Kill the server and its backends, which hold its memory for as long as they live."""
    family = [member for one in service(stack, "postgres") for member in (one, *one.children(recursive=True))]
    return send(family, signal.SIGKILL)


def restart_postgres(stack, _chance):
    return send(service(stack, "postgres"), signal.SIGINT)


def fill_scratch(stack, _chance):
    """Leave no room where a stage's work lies, until the next fault."""
    filler = filler_of(stack)
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return [f"{filler.stat().st_size >> 20} MiB"]


def make_room(stack):
    filler_of(stack).unlink(missing_ok=True)


def filler_of(stack):
    return stack.state / "cache/filler"


def set_clock(stack, chance):
    """Set the clock of everything but the object store: whose processes read this file (clock.c)."""
    path = clock_path(stack)
    wanted = chance.choice([offset for offset in CLOCK_OFFSETS_S if offset != int(path.read_text())])
    part = path.with_suffix(".part")
    part.write_text(f"{wanted:+d}")
    os.replace(part, path)
    return [f"{wanted:+d} s"]


def clock_path(stack):
    return stack.state / "clock"


FAULTS = (
    kill_worker, stop_worker, kill_worker_and_flow, kill_flow, stop_flow, kill_child, kill_mlflow, kill_s3,
    kill_prefect, kill_postgres, restart_postgres, fill_scratch, set_clock,
)  # fmt: skip
