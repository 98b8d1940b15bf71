"""A study in its own processes on the embedded world: killed in a training, it goes on at the checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
SCENES = "[{type: shapes, num_scenes: 24, captions_per_scene: 2, seed: 1}]"
STUDY = f"""
name: killed
recipes:
  mmdit:
    recipe: shapes
    fields: {{curation.sources: {SCENES}, evaluate.num_inference_steps: 1, evaluate.num_bootstrap: 100,
      runtime.checkpoint_every_steps: 5}}
    seconds_per_step: 0.2
    seconds_per_image_call: 0.003
    seconds_per_stage: 8
    measured: nowhere
matrix:
  objectives: {{positive: {{train.objective: {{name: score_matching}}}}}}
  seeds: [0, 1]
  num_steps: [60]
  guidance: [1]
selection: {{seed: 1, images_per_prompt: 1, guidance: [1]}}
report: {{seed: 2, images_per_prompt: 1}}
"""


def started(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    command = [sys.executable, "-m", "softalign", "-v", "study", str(tmp_path / "study.yaml"), "--json"]
    return subprocess.Popen(
        [*command, "--store", str(tmp_path / "store"), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def test_killed_in_a_training_it_goes_on_at_the_checkpoints_and_does_nothing_twice(tmp_path):
    first = started(tmp_path)
    checkpoints = (tmp_path / "store" / ".work" / "train").glob
    while not list(checkpoints("*/checkpoints/step-*")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = started(tmp_path)
    output, log = second.communicate()
    assert second.returncode == 0, log
    assert "encode: already there, reused" in log and "resuming at step" in log
    result = json.loads(output)
    assert len(result["cells"]) == 4
    made = {path.name for path in (tmp_path / "store" / "train").iterdir()}
    assert made == {cell["train_key"] for cell in result["cells"]} and len(made) == 2
    third = started(tmp_path)
    again, log = third.communicate()
    assert json.loads(again) == result and "0 to run" in log and "Stage" not in log
