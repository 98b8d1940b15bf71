"""A process that hangs ends by itself and says where; one that goes on does not."""

import subprocess
import sys

from softalign.config import Runtime

SCRIPT = """
import time
from softalign.processes.watchdog import Watchdog

def the_place_it_hangs():
    time.sleep(60)

dog = Watchdog({timeout_s})
with dog.watching():
    for _ in range(6):
        time.sleep(0.3)
        dog.note_progress()
    {then}
time.sleep(1.5)
print("done")
"""


def run(timeout_s, then):
    code = SCRIPT.format(timeout_s=timeout_s, then=then)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)


def test_a_hang_ends_the_process_with_its_stacks():
    result = run(1.0, "the_place_it_hangs()")
    assert result.returncode == 1
    assert "Timeout" in result.stderr
    assert "the_place_it_hangs" in result.stderr


def test_work_that_goes_on_and_work_after_the_watch_are_left_alone():
    assert run(1.0, "pass").stdout == "done\n"


def test_without_a_timeout_nothing_is_watched():
    assert run(None, "pass").stdout == "done\n"


def test_the_watch_bites_before_the_supervisor_does():
    assert Runtime(stall_timeout_s=100.0).hang_timeout_s == 90.0
