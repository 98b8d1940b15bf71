"""The tests' own way to find a process to kill."""

import subprocess
import sys
import time

import psutil

from tests.killing import children_at


def test_a_child_that_died_and_was_not_waited_for_hides_no_other():
    dead = subprocess.Popen([sys.executable, "-c", "pass", "softalign-test"])
    while psutil.Process(dead.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "softalign-test"])
    try:
        assert [child.pid for child in children_at("softalign-test")] == [living.pid]
    finally:
        living.kill()
        living.wait()
        dead.wait()
