"""What a chaos run does to a stack: each fault takes what is there at that moment, and says what it hit."""

import json
import resource
import signal

import psutil

TRAINER = "softalign.stages.worker"
SMALL_FILE_BYTES = 64


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
    for process in processes:
        process.send_signal(number)
    return [process.pid for process in processes]


def kill_worker(stack):
    return send(service(stack, "worker-gpu"), signal.SIGKILL)


def stop_worker(stack):
    return send(service(stack, "worker-gpu"), signal.SIGTERM)


def kill_worker_and_flow(stack):
    flows, children = processes_of_runs(stack)
    return send([*service(stack, "worker-gpu"), *flows, *children], signal.SIGKILL)


def kill_flow(stack):
    return send(processes_of_runs(stack)[0], signal.SIGKILL)


def stop_flow(stack):
    return send(processes_of_runs(stack)[0], signal.SIGTERM)


def kill_child(stack):
    return send(processes_of_runs(stack)[1], signal.SIGKILL)


def kill_mlflow(stack):
    return send(service(stack, "mlflow"), signal.SIGKILL)


def kill_s3(stack):
    return send(service(stack, "s3"), signal.SIGKILL)


def kill_prefect(stack):
    return send(service(stack, "prefect"), signal.SIGKILL)


def restart_postgres(stack):
    return send(service(stack, "postgres"), signal.SIGINT)


def fill_scratch(stack):
    """Let the files of a stage's child process grow no more, as on a full disk; its next attempt finds room again."""
    _, children = processes_of_runs(stack)
    for child in children:
        child.rlimit(resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, resource.RLIM_INFINITY))
    return [child.pid for child in children]


FAULTS = (
    kill_worker, stop_worker, kill_worker_and_flow, kill_flow, stop_flow, kill_child, kill_mlflow, kill_s3,
    kill_prefect, restart_postgres, fill_scratch,
)  # fmt: skip
