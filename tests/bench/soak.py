"""Many runs through one stack: do all of them end, at which rate, and does what serves them keep its size?

``python -m tests.bench.soak [--runs 200] [--different 10] [--deployment softalign-retrain/retrain]``: starts a stack of
its own in a temporary folder, queues the runs at once, watches until the last one has ended, and stops the stack.
``--different`` says how many of the runs ask for something new (another training seed, a few scenes each); the others
find everything done. Prints one JSON document with the memory of every service over time; exit code 1 if a run did not
complete, if runs stand still for STILL_S, or if a service has grown by more than MAX_GROWTH between a quarter of them
and the last one.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import psutil

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
MAX_GROWTH = 1.25
STILL_S = 900.0
SAMPLE_EVERY_S = 10.0
MIB = 1 << 20


def stack(state, command):
    """Run a command of the local stack and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "infra/local_stack.py"), command],
        env={**os.environ, "SOFTALIGN_STACK": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"local_stack.py {command}: {done.stdout}{done.stderr}")
    return done.stdout


def ask(api, path, body=None):
    """Return what Prefect's server answers."""
    data = None if body is None else json.dumps(body).encode()
    question = urllib.request.Request(api + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(question, timeout=60) as answer:
        return json.load(answer)


def queue(api, name, num_runs, num_different):
    """Create the runs and return their ids."""
    deployment = ask(api, f"/deployments/name/{name}")["id"]
    created = []
    for index in range(num_runs):
        overrides = [*TINY, f"train.seed={index % num_different}"]
        body = {"parameters": {"recipe": "shapes", "overrides": overrides}}
        created.append(ask(api, f"/deployments/{deployment}/create_flow_run", body)["id"])
    return created


def states(api, deployment_name):
    """Return how many runs of the deployment are in each state."""
    deployment = ask(api, f"/deployments/name/{deployment_name}")["id"]
    counts = Counter()
    for kind in ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED", "CANCELLING", "CANCELLED"):
        wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": [kind]}}}}
        counts[kind] = ask(api, "/flow_runs/count", wanted)
    return {kind: count for kind, count in counts.items() if count}


def memory_of(state):
    """Return the memory of every service of the stack, bytes; of a worker without the runs that it started.

    Pages that processes share count once (proportional set size): Postgres's processes share most of theirs.
    """
    sizes = {}
    for path in sorted(state.glob("*.process.json")):
        name = path.name.split(".")[0]
        try:
            process = psutil.Process(json.loads(path.read_text())["pid"])
            members = [process] if "worker" in name else [process, *process.children(recursive=True)]
            sizes[name] = sum(member.memory_full_info().pss for member in members)
        except (psutil.Error, ValueError, OSError):
            continue
    return sizes


def watch(api, state, deployment_name, num_runs):
    """Return samples of (seconds, number completed, states, memory) until all runs have ended or nothing moves."""
    samples, begun, last_change = [], time.monotonic(), time.monotonic()
    while True:
        found = states(api, deployment_name)
        ended = sum(found.get(kind, 0) for kind in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        if samples and samples[-1]["ended"] != ended:
            last_change = time.monotonic()
        seconds = round(time.monotonic() - begun, 1)
        samples.append({"seconds": seconds, "ended": ended, "states": found, "memory": memory_of(state)})
        if ended >= num_runs or time.monotonic() - last_change > STILL_S:
            return samples
        time.sleep(SAMPLE_EVERY_S)


def growth(samples, num_runs):
    """Return each service's memory at the last run as a ratio to that at a quarter of the runs."""
    early = next((one for one in samples if one["ended"] >= num_runs / 4), samples[0])["memory"]
    late = samples[-1]["memory"]
    return {name: round(late[name] / early[name], 3) for name in late if early.get(name)}


def by_eighths(samples, num_runs):
    """Return each service's memory, MiB, when each eighth of the runs had ended."""
    points = []
    for eighth in range(9):
        found = next((one for one in samples if one["ended"] >= num_runs * eighth / 8), samples[-1])
        points.append(found["memory"])
    return {name: [round(point.get(name, 0) / MIB) for point in points] for name in points[-1]}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--different", type=int, default=10)
    parser.add_argument("--deployment", default="softalign-retrain/retrain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="softalign-soak-") as folder:
        state = Path(folder)
        state.chmod(0o755)  # Postgres does not run as root
        try:
            stack(state, "up")
            exports = dict(shlex.split(line)[1].split("=", 1) for line in stack(state, "env").splitlines())
            api = exports["PREFECT_API_URL"]
            queue(api, options.deployment, options.runs, options.different)
            samples = watch(api, state, options.deployment, options.runs)
        finally:
            stack(state, "down")
    completed = samples[-1]["states"].get("COMPLETED", 0)
    ratios = growth(samples, options.runs)
    rows = {
        "num_runs": options.runs,
        "num_different": options.different,
        "states": samples[-1]["states"],
        "seconds": samples[-1]["seconds"],
        "seconds_per_run": round(samples[-1]["seconds"] / max(completed, 1), 2),
        "memory_mib_by_eighths": by_eighths(samples, options.runs),
        "memory_last_to_quarter": ratios,
        "num_cores": os.cpu_count(),
    }
    print(json.dumps(rows, indent=2))
    is_flat = all(ratio <= MAX_GROWTH for ratio in ratios.values())
    return 0 if completed == options.runs and is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
