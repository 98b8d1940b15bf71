"""``make run`` from a fresh clone, with installation: minutes long, so by hand (``pytest -m slow tests/e2e``)."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def make(target, folder):
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    started = time.monotonic()
    done = subprocess.run(["make", target], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, time.monotonic() - started


def test_make_run_twice(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    first, first_s = make("run", clone)
    before = {path: path.stat().st_mtime_ns for path in (clone / "softalign-store").rglob("*") if path.is_file()}
    second, second_s = make("run", clone)
    after = {path: path.stat().st_mtime_ns for path in (clone / "softalign-store").rglob("*") if path.is_file()}
    print(f"first {first_s:.0f} s, second {second_s:.0f} s\n{first}")
    assert first_s < 600
    assert second_s < 60
    assert after == before
    for expected in ("overall", "romoted: ", "report", "registry", "What you can do next:"):
        assert expected in first
    assert "nothing to do" in second
