"""The commands a newcomer types, as processes of their own: output, exit codes, reruns, signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softalign.cli import app
from softalign.config import load_recipe
from softalign.registry import promote, registry_of_store
from softalign.stages.chain import run_chain
from softalign.stages.plan import plan
from softalign.stages.run import stage_labels
from softalign.store.store import Store

ROOT = Path(__file__).parents[2]


def start(*arguments, **options):
    command = [sys.executable, "-m", "softalign", *arguments]
    # a terminal's command hears SIGINT; one started in the background inherits that it is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    finally:
        signal.signal(signal.SIGINT, before)


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def store(finished_run, tmp_path):
    """A copy of a store in which the tiny chain has run."""
    return shutil.copytree(finished_run.store, tmp_path / "store", symlinks=True)


def overrides_of(finished_run, *more):
    return [part for override in (*finished_run.overrides, *more) for part in ("--set", override)]


def test_run_again_does_nothing_and_prints_scores_decision_and_places(finished_run):
    result = run("run", "shapes", "--store", str(finished_run.store), *overrides_of(finished_run))
    assert result.returncode == 0, result.stderr
    assert "nothing to do, all of it was already there" in result.stdout
    places = (Path(finished_run.summary.report_uri).as_uri(), "sqlite", "softalign pull tiny/1")
    for expected in ("overall", "base", "untrained", "adapter", "romoted", *places):
        assert expected in result.stdout
    lines, labels = result.stderr.splitlines(), stage_labels(load_recipe("shapes"))
    assert [line for line in lines if "already there, reused" in line] == [
        f"Stage {number} of 9, {label}: already there, reused" for number, label in enumerate(labels, start=1)
    ]
    assert any(line.startswith("Starting Prefect's server") for line in lines)
    for noise in ("INFO", "Finished in state", "Created task run", "temporary server", "Task run"):
        assert noise not in result.stderr


def test_plain_and_flow_find_the_same_outputs(finished_run):
    result = run("run", "shapes", "--plain", "--json", "--store", str(finished_run.store), *overrides_of(finished_run))
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["num_stages_run"] == 0
    assert printed["adapter_uri"] == finished_run.summary.adapter_uri


def stop_in_training(process, number):
    """Signal the whole foreground group, as a terminal does, once steps are made; return the exit code and the rest."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "step 1/100000" in line:
            break
    os.killpg(process.pid, number)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 15, "".join(lines) + err
    assert out == ""
    with pytest.raises(ProcessLookupError):  # neither the child nor Prefect's server is left
        os.killpg(process.pid, 0)
    return process.returncode, err


def test_ctrl_c_leaves_a_run_with_one_line_75_a_checkpoint_and_no_process(finished_run, store):
    more = overrides_of(finished_run, "train.num_steps=100000", "runtime.checkpoint_every_steps=5")
    process = start("run", "shapes", "--store", str(store), *more, start_new_session=True)
    code, err = stop_in_training(process, signal.SIGINT)
    assert (code, err.count("\n")) == (75, 1), err
    assert re.match(r"stopped: curate, encode and \d+ of 100000 training steps are kept in ", err)
    assert list(store.glob(".work/train/*/checkpoints/*"))


@pytest.mark.parametrize(
    ("command", "number"),
    [(["train", "shapes", "--through"], signal.SIGTERM), (["run", "shapes", "--plain"], signal.SIGHUP)],
)
def test_a_stopped_command_leaves_with_one_line_75_a_checkpoint_and_no_process(finished_run, store, command, number):
    more = overrides_of(finished_run, "train.num_steps=100000")
    process = start(*command, "--store", str(store), *more, start_new_session=True)
    code, err = stop_in_training(process, number)
    assert (code, err.count("\n")) == (75, 1), err
    assert re.match(r"stopped: curate, encode and \d+ of 100000 training steps are kept in ", err)
    assert list(store.glob(".work/train/*/checkpoints/*"))


def test_a_bad_recipe_is_refused_before_any_server_starts(tmp_path):
    result = run("run", "shapes", "--store", str(tmp_path / "store"), "--set", "train.num_stepz=1")
    assert result.returncode == 2
    assert "num_stepz" in result.stderr
    assert "server" not in result.stderr
    assert not (tmp_path / "store").exists()


def test_the_makefile_installs_and_runs_as_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (install,) = set(re.findall(r"pip install -c infra/constraints\.txt -e '[^']*'", readme))
    shown = subprocess.run(
        ["make", "-n", "-B", "run", "test", "lint", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert install.removeprefix("pip ") in shown
    assert install.removeprefix("pip ") in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "softalign run shapes --store softalign-store" in shown
    assert "--cov-fail-under=85" in shown


def test_the_readme_and_its_pages_name_only_commands_that_exist(monkeypatch, capsys):
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("softalign/**/*.md"), *ROOT.glob("infra/*.md")]
    readme = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = set()
    for command in re.findall(r"`softalign ((?:geneval|shapes) )?([a-z|\\-]+)", readme):
        named |= {(command[0].strip(), name.strip("\\")) for name in command[1].split("|")}
    assert ("", "run") in named
    assert ("geneval", "score") in named
    for group, name in sorted(named):
        if name == "deploy":  # the flows' own command, which takes the process's place
            assert run(name, "--help").returncode == 0
            continue
        monkeypatch.setattr(sys, "argv", ["softalign", *filter(None, (group, name)), "--help"])
        with pytest.raises(SystemExit) as stop:
            app.main()
        assert not stop.value.code, f"softalign {group} {name}: {capsys.readouterr().err}"


def test_the_next_adapter_is_drawn_beside_the_champion_and_a_rerun_does_nothing(finished_run, store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = Store(str(store))
    promote("tiny", 1, "to have a champion", registry_of_store(opened))
    recipe = load_recipe("shapes", [*finished_run.overrides, "train.seed=1"])
    summary = run_chain(recipe, opened, lambda _line: None)
    # curate, encode, base, guided base, and the untrained tokens, which start as padding whatever the seed
    assert (summary.version, summary.num_stages_reused, summary.champion.partition("#")[0]) == (2, 5, "tiny/1")
    assert {gain.tag for gain in summary.adapter_vs_champion} == {gain.tag for gain in summary.adapter_vs_base}
    assert "not_worse_than_champion" in {check.name for check in summary.checks}
    assert "Beside champion tiny/1" in summary.reason and "the champion, tiny/1" in summary.to_text()
    promote("tiny", 2, "the alias is its own now", registry_of_store(opened))
    again = run_chain(recipe, opened, lambda _line: None)
    assert (again.num_stages_run, again.version, again.champion) == (0, 2, summary.champion)


def test_a_sweep_draws_the_arms_at_other_guidance_and_compares_each_at_its_best(finished_run, store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = Store(str(store))
    recipe = load_recipe("shapes", [*finished_run.overrides, "evaluate.guidance_sweep=[1,3]"])
    waiting = [row for row in plan(recipe, opened) if row.state != "done"]
    swept = [f"evaluate ({arm} at guidance 3)" for arm in ("base", "untrained", "adapter")]
    assert [row.label for row in waiting] == [*swept, "compare", "register"]
    assert "can be told overall in four cases of five" in waiting[3].reason
    summary = run_chain(recipe, opened, lambda _line: None)
    assert summary.num_stages_run == 5
    points = [(point.arm, point.guidance_scale) for point in summary.fronts.points]
    assert points == [(arm, at) for at in (1.0, 3.0) for arm in ("base", "untrained", "adapter")]
    assert summary.adapter_vs_base == finished_run.summary.adapter_vs_base  # the gate looks at the arms' own guidance
    assert "Each at its best guidance" in summary.to_text() and "won:lost" in summary.to_text()
    assert run_chain(recipe, opened, lambda _line: None).num_stages_run == 0
