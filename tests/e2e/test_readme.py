"""README and its pages from top to bottom: their blocks run in order, in one folder, with a small recipe."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from softalign.cli import app
from softalign.config import load_recipe
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "softalign/data/README.md", "softalign/adapters/README.md", "softalign/training/README.md"),
    "softalign/geneval/README.md",
    *("infra/README.md", "infra/TROUBLESHOOTING.md", "softalign/README.md", "CONTRIBUTING.md"),
)
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
MAX_README_LINES = 200
SMALL = (
    *(override for override in TINY if not override.startswith("register.name")),
    "register.policy={min_overall_gain: -1, requires_significant_gain: false, max_tag_drop: 1}",
    "register.policy.must_beat_untrained=false",
)
"""Promoted whatever it scores: later commands name the champion."""
ELSEWHERE = {
    "make test": "this very run",
    "make lint": "`.ci/run`, beside this run",
    "make bench": "by hand: it takes minutes and an idle machine",
    "pip install -c infra/constraints.txt -e '.[pipeline,dev]'": "e2e/test_run.py, with the Makefile",
    "make stack": "integration/test_local_stack.py, as all that follows it",
    "source .venv/bin/activate": "integration/test_local_stack.py",
    'eval "$(python infra/local_stack.py env)"': "integration/test_local_stack.py",
    "prefect deployment run softalign-retrain/retrain --watch": "integration/test_local_stack.py",
    "prefect deployment run softalign-retrain/retrain --param recipe=shapes-sd3": "integration/test_local_stack.py",
    "make stack-status": "integration/test_local_stack.py",
    "make stack-down": "integration/test_local_stack.py",
    "softalign deploy": "integration/test_deploy.py, as all of its options",
    "softalign deploy --schedule 'retrain=0 3 * * *' --schedule refresh=6h --timezone Europe/Berlin": "likewise",
    "softalign deploy --notify slack:SLACK_URL --notify webhook:HOOK": "likewise",
    "softalign deploy --pool-type kubernetes --image REPOSITORY:TAG": "unit/flows/test_deployments.py",
    "python -m flows.worker --pool gpu": "integration/test_lost_runs.py",
}
"""Commands that are not run here, and what runs them."""


def hand_over(folder):
    """Write what a data team has: photographs (noise will do) with captions, as the README's recipe names them."""
    (folder / "images").mkdir()
    names = [f"{number}.jpg" for number in range(4)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / "images" / name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names[:2])]
    captions = [{"image_id": number, "caption": f"a photo of {number + 2} cats"} for number in range(2)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    pq.write_table(pa.table({"file": names[2:], "text": ["a dog", "two dogs"]}), folder / "more.parquet")
    (folder / "changes.csv").write_text("action,file_name,before,caption\nchange,0.jpg,a photo of 2 cats,two cats\n")


def softalign(arguments, monkeypatch):
    """Run a command in this process, and return its exit code."""
    if arguments[0] == "run":  # Prefect's server takes 15 s to start, and e2e/test_run.py has one
        arguments = [*arguments, "--plain"]
    if "shapes" in arguments and arguments[0] in {"run", "plan", "train", "evaluate"}:
        arguments = [*arguments, *(part for override in SMALL for part in ("--set", override))]
    monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
    try:
        app.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def commands_of(block):
    """Return a block's commands, without comments and prompts."""
    return [line for text in block.replace("\\\n", " ").splitlines() if (line := re.sub(r"\s+# .*", "", text).strip())]


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))  # a command of a page clears it
    hand_over(tmp_path)
    scope, ran = {}, []
    for language, block in BLOCKS:
        if language == "yaml" and "curation:" in block:
            Path("cats.yaml").write_text(block, encoding="utf-8")
        elif language == "yaml":  # a part of a recipe
            load_recipe("shapes", [f"{name}={json.dumps(part)}" for name, part in yaml.safe_load(block).items()])
        elif language == "python":
            exec(compile(block, "README.md", "exec"), scope)
            ran.append(block)
        for command in commands_of(block) if language == "sh" else ():
            if command in ELSEWHERE:
                continue
            words = shlex.split(command.replace("make run", "softalign run shapes"))
            assert words[0] == "softalign", f"nothing runs this line of README: {command}"
            code = softalign(words[1:], monkeypatch)
            assert code == 0, f"{command}: exit {code}\n{capfd.readouterr().err[-3000:]}"
            ran.append(command)
    assert {language for language, _ in BLOCKS} <= {"sh", "python", "yaml", "text"}
    assert len([command for command in ran if command.startswith("softalign")]) >= 10
    assert scope["image"].size == (32, 32)
    assert all(command in TEXT for command in ELSEWHERE)


def test_the_front_page_is_short_and_every_link_of_the_pages_leads_somewhere():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < MAX_README_LINES
    for page in (*PAGES, "softalign/config/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_every_message_of_the_troubleshooting_page_is_one_that_can_be_read():
    page = (ROOT / "infra/TROUBLESHOOTING.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("softalign/**/*.py")))
    source += "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("flows/**/*.py")))
    messages = re.findall(r'^- \*\*"(.+?)"', page, re.M | re.S)
    assert len(messages) > 15
    for message in messages:
        assert " ".join(message.split()) in source, message
