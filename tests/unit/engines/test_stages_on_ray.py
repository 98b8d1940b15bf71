"""Stages on a Ray cluster: the bytes of this process, with one, two and three processes, and when one is killed."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from softalign.config.engine import RayEngine
from softalign.processes.progress import listening
from softalign.sampling.geneval_set import SetSettings, generate_set
from softalign.shapes.suite import build_suite
from softalign.store.files import list_files
from tests.killing import children_at
from tests.unit.engines.stages import HERE, few_prompts, stages


def on_ray(num_processes):
    engine = RayEngine(num_cpus_per_task=3.0 / num_processes, items_per_call=8)
    return HERE.model_copy(update={"engine": engine})


@pytest.fixture(scope="module", autouse=True)
def small():
    with few_prompts():
        yield


@pytest.fixture(scope="module")
def made_here(tmp_path_factory):
    root = tmp_path_factory.mktemp("here")
    stages(root, HERE)
    return root


@pytest.fixture
def expected(made_here):
    return stages(made_here, HERE)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_the_stages_publish_the_same_bytes(cluster, expected, tmp_path, num_processes):
    heard = []
    with listening(heard.append):
        assert stages(tmp_path, on_ray(num_processes)) == expected
    ends = {(report.stage, report.unit): (report.done, report.total, report.num_reused) for report in heard}
    assert ends["curate", "images"] == (90, 90, 0)
    assert ends["encode", "images"][::2] == (ends["encode", "images"][1], 0)
    assert ends["encode", "captions"][::2] == (ends["encode", "captions"][1], 0)
    assert ends["evaluate", "images"] == (26, 26, 0)


class Killer(threading.Thread):
    """Kills a process of the cluster that is at work, once something has become of its work."""

    def __init__(self, pattern):
        super().__init__(daemon=True)
        self.pattern, self.killed, self.is_over = pattern, None, False

    def run(self):
        root, _, rest = str(self.pattern).partition("/*/")
        while not self.is_over and self.killed is None:
            if any(Path(root).glob(f"*/{rest}")):
                self.killed = self._kill_one()
            time.sleep(0.005)

    def _kill_one(self):
        for process in children_at("ray::_call"):  # at work; idle ones have another title
            os.kill(process.pid, signal.SIGKILL)
            return process.pid
        return None


@pytest.mark.parametrize(
    ("lost", "made"),
    [
        (("curate", "encode", "encoded", "evaluate"), ".work/*/d/journal/*.json"),
        (("encode", "encoded"), "encoded/*/*.json"),
        (("evaluate",), ".work/*/b/arm/images/*/samples/*.png"),
    ],
)
def test_a_process_killed_in_the_middle_changes_nothing(cluster, made_here, expected, tmp_path, lost, made):
    shutil.copytree(made_here, tmp_path, dirs_exist_ok=True)
    for folder in lost:
        shutil.rmtree(tmp_path / folder)
    killer = Killer(tmp_path / made)
    killer.start()
    try:
        assert stages(tmp_path, on_ray(2)) == expected
    finally:
        killer.is_over = True
    assert killer.killed is not None


def test_an_interrupted_encoding_goes_on_where_it_was(cluster, made_here, expected, tmp_path):
    shutil.copytree(made_here, tmp_path, dirs_exist_ok=True)
    indexes = sorted(tmp_path.glob("encoded/*/*.json"))
    for index in indexes[::2]:
        index.unlink()
    kept = {index: index.stat().st_mtime_ns for index in indexes[1::2]}
    shutil.rmtree(tmp_path / "encode")
    assert stages(tmp_path, on_ray(3)) == expected
    assert {index: index.stat().st_mtime_ns for index in kept} == kept


@pytest.mark.slow
def test_a_set_of_images_is_the_same_on_the_cluster(cluster, tmp_path):
    suite = tuple(build_suite()[:2])
    settings = SetSettings(images_per_prompt=2, num_inference_steps=1, guidance_scale=2.0, batch_size=1)
    generate_set("shapes", None, suite, tmp_path / "here", settings)
    generate_set("shapes", None, suite, tmp_path / "there", replace(settings, runtime=on_ray(2)))
    assert list_files(tmp_path / "there") == list_files(tmp_path / "here")
