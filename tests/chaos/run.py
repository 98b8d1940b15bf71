"""A retrain on a private local stack while a seeded script kills its parts, beside an undisturbed one.

    python -m tests.chaos.run --seed 1 --faults 30
    python -m tests.chaos.run --seed 1 --faults 30 --full        # the recipe `shapes` as it is, instead of a short one

Exit code 0: every fault came, at least once each where there are so many, and the run completed without a person,
with every output of the undisturbed run and exactly one version. Linux; needs a C compiler for the clock that is set,
and root for the small disk that is filled.
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
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import fsspec

from tests.chaos.faults import FAULTS, clock_path, filler_of, make_room
from tests.conftest import TINY
from tests.integration.conftest import ROOT, Stack, missing
from tests.integration.prefect_api import ask, start_run, state_of

SHORT = (*TINY, "train.num_steps=1500", "runtime.checkpoint_every_steps=20", "register.name=chaos")
FULL = ("register.name=chaos",)
ENDS = {"COMPLETED", "FAILED", "CANCELLED"}
STAGES = {"curate", "encode", "encoded", "train", "evaluate", "compare"}
OF_THE_ATTEMPTS = {"usage.json"}
"""What stages cost: more, the more often they begin."""
ATTEMPT = re.compile("[0-9a-f]{16}")
"""A folder between key and files in an object store."""
TIME_LIMIT_S = 4 * 3600.0
SCRATCH = "size=192m,mode=0700"
"""Of the disk for a stage's work; 64 MiB must be free for a run to begin."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--every-s", type=float, default=15.0, help="mean time between faults")
    parser.add_argument("--full", action="store_true", help="the recipe `shapes` as it is")
    parser.add_argument("--set", action="append", default=[], help="section.field=value, after the recipe's own")
    parser.add_argument("--undisturbed", help="a folder with the undisturbed run's store; made where there is none")
    parser.add_argument("--keep-logs", type=Path, help="a folder to copy the stack's logs to")
    arguments = parser.parse_args()
    overrides = (*(FULL if arguments.full else SHORT), *arguments.set)
    chance, kept = random.Random(arguments.seed), (arguments.undisturbed, arguments.keep_logs)
    sys.exit(0 if holds(chance, arguments.faults, arguments.every_s, overrides, *kept) else 1)


def lacking():
    """Return what a chaos run needs and this machine lacks."""
    lacks = [*missing(), *([] if shutil.which("cc") else ["a C compiler"])]
    return [*lacks, *([] if os.geteuid() == 0 else ["root, for a small disk"])]


def holds(chance, num_faults, every_s, overrides, undisturbed=None, kept_logs=None):
    """Return whether a disturbed run ends as an undisturbed one, with one registered version."""
    if absent := lacking():
        raise RuntimeError(f"needs {', '.join(absent)}")
    state = Path(tempfile.mkdtemp(prefix="softalign-chaos-"))
    state.chmod(0o755)
    stack = Stack(state / "stack")
    stack.state.mkdir()
    try:
        with small_scratch(stack):
            try:
                with fake_clock(stack):
                    stack.up()
                os.environ.update(stack.exports)
                end, came = disturbed(stack, chance, num_faults, every_s, overrides)
                settle(stack)
                found, versions = outputs(os.environ["SOFTALIGN_STORE"]), registered_versions()
            finally:
                stack("down")
        undisturbed = undisturbed or str(state / "undisturbed")
        run_undisturbed(undisturbed, overrides)
        expected = outputs(undisturbed)
    finally:
        if kept_logs:
            shutil.copytree(stack.state / "logs", kept_logs, dirs_exist_ok=True)
        shutil.rmtree(state, ignore_errors=True)
    differing = [label for label in sorted(expected.keys() | found.keys()) if found.get(label) != expected.get(label)]
    absent = [fault.__name__ for fault in FAULTS if fault.__name__ not in came]
    say(f"the run ended {end}; versions {versions}; outputs that differ: {differing or 'none'} of {len(expected)}")
    say(f"{came.total()} faults: {dict(came)}; did not come: {absent or 'none'}")
    has_come = came.total() == num_faults and (num_faults < len(FAULTS) or not absent)
    return end == "COMPLETED" and versions == [1] and not differing and has_come


@contextmanager
def small_scratch(stack):
    """Put a disk of a few MiB where stages work."""
    folder = filler_of(stack).parent
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", SCRATCH, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def fake_clock(stack):
    """Let what is started meanwhile take its time of day from a file; what only grows stays as it is."""
    clock_path(stack).write_text("0")
    library = stack.state / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    variables = {"LD_PRELOAD": str(library), "SOFTALIGN_CHAOS_CLOCK": str(clock_path(stack))}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def disturbed(stack, chance, num_faults, every_s, overrides):
    """Start the run, let the faults come until it has ended, and return how it ended and which came."""
    run_id, begin, came, deck = start_run("softalign-retrain/retrain", *overrides), time.monotonic(), Counter(), []
    due = begin + every_s * chance.uniform(0.5, 1.5)
    while time.monotonic() - begin < TIME_LIMIT_S:
        now = time.monotonic()
        if came.total() < num_faults and now >= due:
            make_room(stack)
            if not deck[len(FAULTS) :]:
                deck += chance.sample(FAULTS, len(FAULTS))  # what hits nothing now comes later
            if come := next(((fault, hit) for fault in deck if (hit := fault(stack, chance))), None):
                deck.remove(come[0])
                came[come[0].__name__] += 1
                due = time.monotonic() + every_s * chance.uniform(0.5, 1.5)
                say(f"{now - begin:6.0f} s  {come[0].__name__:<22}{come[1]}")
        elif now >= due:
            make_room(stack)
        if (state := state_or_none(run_id)) in ENDS:
            say(f"{now - begin:6.0f} s  {state} after {came.total()} faults, in attempt {state_of(run_id)[1]}")
            return state, came
        time.sleep(1.0)
    return f"in {state_or_none(run_id)} at the time limit", came


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
        if stage in STAGES and rest[-1] not in OF_THE_ATTEMPTS:
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
