"""A retrain on a private local stack while a seeded script kills its parts, beside an undisturbed one.

    python -m tests.chaos.run --seed 1 --faults 30
    python -m tests.chaos.run --seed 1 --faults 30 --full        # the recipe `shapes` as it is, instead of a short one

Exit code 0: the run completed without a person, with every output of the undisturbed run and exactly one version.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import psutil

from tests.chaos.faults import FAULTS
from tests.conftest import TINY
from tests.integration.conftest import ROOT, Stack
from tests.integration.prefect_api import ask, start_run, state_of

SHORT = (*TINY, "train.num_steps=3000", "runtime.checkpoint_every_steps=20", "register.name=chaos")
FULL = ("register.name=chaos",)
ENDS = {"COMPLETED", "FAILED", "CANCELLED"}
STAGES = {"curate", "encode", "encoded", "train", "evaluate", "compare"}
ATTEMPT = re.compile("[0-9a-f]{16}")
"""A folder between key and files in an object store."""
TIME_LIMIT_S = 4 * 3600.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--every-s", type=float, default=20.0, help="mean time between faults")
    parser.add_argument("--full", action="store_true", help="the recipe `shapes` as it is")
    arguments = parser.parse_args()
    sys.exit(0 if holds(arguments.seed, arguments.faults, arguments.every_s, FULL if arguments.full else SHORT) else 1)


def holds(seed, num_faults, every_s, overrides):
    """Return whether a disturbed run ends as an undisturbed one, with one registered version."""
    state = Path(tempfile.mkdtemp(prefix="softalign-chaos-"))
    state.chmod(0o755)
    stack = Stack(state / "stack")
    stack.state.mkdir()
    try:
        stack.up()
        os.environ.update(stack.exports)
        end = disturbed(stack, random.Random(seed), num_faults, every_s, overrides)
        settle(stack)
        run_undisturbed(str(state / "undisturbed"), overrides)
        found, expected = outputs(os.environ["SOFTALIGN_STORE"]), outputs(str(state / "undisturbed"))
        versions = registered_versions()
    finally:
        stack("down")
        shutil.rmtree(state, ignore_errors=True)
    differing = [label for label in sorted(expected.keys() | found.keys()) if found.get(label) != expected.get(label)]
    say(f"the run ended {end}; versions {versions}; outputs that differ: {differing or 'none'} of {len(expected)}")
    return end == "COMPLETED" and versions == [1] and not differing


def disturbed(stack, chance, num_faults, every_s, overrides):
    """Start the run, let the faults come at seeded times until it has ended, and return how it ended."""
    run_id, begin, done = start_run("softalign-retrain/retrain", *overrides), time.monotonic(), 0
    due = begin + every_s * chance.uniform(0.5, 1.5)
    while time.monotonic() - begin < TIME_LIMIT_S:
        if done < num_faults and time.monotonic() >= due:
            fault = chance.choice(FAULTS)
            try:
                hit = fault(stack)
            except psutil.NoSuchProcess:
                hit = []
            done += bool(hit)
            due = time.monotonic() + every_s * chance.uniform(0.5, 1.5)
            say(f"{time.monotonic() - begin:6.0f} s  {fault.__name__:<22}{hit or 'nothing was there'}")
        if (state := state_or_none(run_id)) in ENDS:
            say(f"{time.monotonic() - begin:6.0f} s  {state} after {done} faults, in attempt {state_of(run_id)[1]}")
            return state
        time.sleep(1.0)
    return f"in {state_or_none(run_id)} at the time limit"


def state_or_none(run_id):
    try:
        return ask(f"/flow_runs/{run_id}")["state"]["type"]
    except (OSError, ValueError):
        return None  # the server is being started again


def settle(stack):
    """Wait until all services answer again: what is compared now must be readable."""
    deadline = time.monotonic() + 300
    while stack("status").returncode and time.monotonic() < deadline:
        time.sleep(2.0)


def run_undisturbed(store, overrides):
    """Run the same recipe without Prefect and without faults, in a folder."""
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "softalign", "run", "shapes", "--plain", "--store", store, *sets]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"`softalign run --plain` ended with {result.returncode}: {result.stderr[-2000:]}")


def outputs(store):
    """Return the SHA-256 of every published file by its stage, key and name, without the folder of an attempt."""
    filesystem, root = fsspec.core.url_to_fs(store)
    found = {}
    for path in filesystem.find(root):
        stage, *rest = path.removeprefix(f"{root}/").split("/")
        if stage in STAGES:
            name = "/".join(part for part in (stage, *rest) if not ATTEMPT.fullmatch(part))
            found[name] = hashlib.sha256(filesystem.cat_file(path)).hexdigest()
    return found


def registered_versions():
    from softalign.registry import history

    return [event.version for event in history("chaos") if event.action == "register"]


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
