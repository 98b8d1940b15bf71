"""Stages whose parts several processes of this machine do: the bytes of one process, also when one is killed."""

import os
import shutil
import signal
import threading
import time

import pytest

from softalign.config.engine import LocalEngine
from softalign.processes.metering import metering
from softalign.processes.progress import listening
from tests.killing import children_at
from tests.unit.engines.stages import HERE, few_prompts, stages


@pytest.fixture(scope="module", autouse=True)
def small():
    with few_prompts():
        yield


@pytest.fixture(scope="module")
def made_here(tmp_path_factory):
    root = tmp_path_factory.mktemp("here")
    return root, stages(root, HERE)


def in_processes(number):
    return HERE.model_copy(update={"engine": LocalEngine(num_processes=number)})


def test_curation_publishes_the_same_bytes_and_its_workers_are_metered(made_here, tmp_path):
    heard, (root, expected) = [], made_here
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "curate")
    with listening(heard.append), metering() as meter:
        assert stages(tmp_path, in_processes(2)) == expected
    ends = {(report.stage, report.unit): (report.done, report.total) for report in heard}
    assert ends["curate", "images"] == (90, 90)
    assert meter.usage(uses_gpu=False).peak_memory_bytes > 50 << 20


@pytest.mark.slow
def test_encoding_and_evaluation_publish_the_same_bytes(made_here, tmp_path):
    assert stages(tmp_path, in_processes(2)) == made_here[1]


def kill_one_at_work(folder, killed):
    while not any(folder.glob("*/d/journal/*.json")):
        time.sleep(0.005)
    workers = children_at("softalign.engines.worker")
    if workers:
        os.kill(workers[0].pid, signal.SIGKILL)
        killed.append(workers[0].pid)


def test_a_worker_killed_while_it_reads_images_changes_nothing(made_here, tmp_path, monkeypatch):
    root, expected = made_here
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "curate")
    monkeypatch.setattr("softalign.engines.pool.ITEMS_PER_CALL", 2)
    killed = []
    killer = threading.Thread(target=kill_one_at_work, args=(tmp_path / ".work", killed), daemon=True)
    killer.start()
    assert stages(tmp_path, in_processes(3)) == expected
    killer.join(10)
    assert killed
