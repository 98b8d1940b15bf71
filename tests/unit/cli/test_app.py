"""The command line's contract: JSON on standard output, errors on standard error, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from softalign.cli import app


def softalign(*arguments, cwd=None):
    command = [sys.executable, "-m", "softalign", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def command(monkeypatch, *arguments):
    """Run a command line here, in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code or 0


def test_help_names_every_command(monkeypatch, capsys):
    assert command(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for name in (
        *("init", "run", "plan", "recipe", "curate", "encode", "train", "evaluate", "register"),
        *("generate", "edit", "convert", "pull", "diagnose", "promote", "rollback", "history", "geneval", "shapes"),
    ):
        assert f" {name} " in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plan", "nosuch"], 2, "no recipe named 'nosuch'"),
        (["plan", "nosuch.yaml"], 2, "no such recipe file"),
        (["plan", "shapes", "--set", "train.num_steps=-3"], 2, "it must be at least 1"),
        (["plan", "shapes", "--set", "train.soft_tokens.blocks=[left]"], 2, "train.soft_tokens.blocks"),
        (["plan", "shapes", "--set", "nonsense"], 2, "section.field=value"),
        (["plan", "shapes", "--set", "train.objective={name: softrepa, banks: dual}"], 2, "no effect"),
        (["plan"], 2, "Missing argument"),
        (["run", "shapes", "--set", "evaluate.suite=geneval"], 2, "softalign train RECIPE --through"),
        (["evaluate", "shapes", "--through", "--set", "evaluate.suite=geneval"], 2, "draws flat shapes alone"),
        (["run", "shapes", "--plain", "--store", "memory://x"], 2, "runtime.tracking_uri"),
        (["plan", "shapes", "--store", ""], 2, "The store has no name"),
        (["curate", "shapes", "--store", "/proc/nope"], 2, "The store cannot be made"),
        (["encode", "shapes", "--store", "empty"], 1, "softalign curate RECIPE"),
        (["history", "softalign-shapes", "--store", "empty"], 1, "no model registry"),
        (["pull", "softalign-shapes@champion", "--to", "x", "--store", "empty"], 1, "no model registry"),
        (["geneval", "score", "nowhere", "--detections", "none.jsonl"], 1, "no such folder"),
    ],
)
def test_bad_input_gets_one_message_and_its_exit_code(tmp_path, monkeypatch, capfd, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(os, "execv")  # a run that is not refused would take this process's place
    assert command(monkeypatch, *arguments) == code
    out, err = capfd.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert out == ""


def test_a_process_of_its_own_says_the_same(tmp_path):
    result = softalign("plan", "shapes", "--set", "train.num_stepz=3", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "train.num_stepz" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["geneval", "prompts", "--out", "nodir/x"], 2, "nodir/x"),
        (["geneval", "prompts", "--out", "images"], 2, "images"),
        (["geneval", "score", "images", "--detections", "d.jsonl", "--out", "afile"], 2, "afile"),
        (["geneval", "score", "images", "--detections", "d.jsonl", "--out", "afile/sub"], 2, "afile"),
        (["geneval", "score", "images", "--detections", "d.jsonl"], 1, "00000/metadata.jsonl"),
        (["geneval", "score", "images", "--detections", "auto", "--segmenter", "./nowhere"], 1, "./nowhere"),
        (["generate", "none", "a cat", "--base", "nosuch", "--out", "afile"], 2, "afile"),
        (["generate", "none", "a cat", "--base", "nosuch", "--out", "made"], 2, "--overwrite"),
        (
            ["generate", "none", "a", "b", "--num-images", "4", "--base", "x", "--out", "made"],
            2,
            "0-0.png, prompt-001-3",
        ),
        (["generate", "none", "a cat", "--out", "made", "--overwrite"], 2, "neither an adapter nor a base model"),
        (["generate", "none", "a cat", "--prompts", "afile", "--out", "made"], 2, "one of both"),
        (["generate", "none", "--out", "made"], 2, "found: neither"),
        (
            ["generate", "none", "a cat", "--base", "x", "--divide-by-guidance", "--out", "new"],
            2,
            "--divide-by-guidance",
        ),
        (
            ["generate", "none", "a cat", "--base", "x", "--unconditional-bank", "negative", "--out", "new"],
            2,
            "--unconditional-bank negative has no effect without an adapter",
        ),
        (["generate", "none", "--prompts", "nofile", "--out", "made"], 1, "nofile"),
        (["edit", "nofile.png", "--from", "a", "--to", "b", "--base", "shapes"], 1, "nofile.png"),
        (["edit", "afile", "--from", "a", "--to", "b", "--base", "shapes"], 1, "no picture that can be edited"),
        (["edit", "afile", "--from", "a", "--to", "b", "--n-max", "60"], 2, "n_max 60, steps 50"),
        (["shapes", "pretrain", "--out", "afile"], 2, "afile"),
    ],
)
def test_a_place_or_file_that_cannot_be_used_is_named(tmp_path, monkeypatch, capsys, arguments, code, said):
    (tmp_path / "afile").write_text("x")
    (tmp_path / "made").mkdir()
    for name in ("prompt-000-0.png", "prompt-001-3.png"):
        (tmp_path / "made" / name).write_text("mine")
    (tmp_path / "images" / "00000" / "samples").mkdir(parents=True)
    (tmp_path / "images" / "00000" / "samples" / "0000.png").write_bytes(b"")
    (tmp_path / "images" / "00000" / "metadata.jsonl").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert (stop.value.code, said in capsys.readouterr().err) == (code, True)
    assert (tmp_path / "afile").read_text() == "x"
    assert {path.read_text() for path in (tmp_path / "made").iterdir()} == {"mine"}


def test_an_error_of_the_operating_system_is_one_message(monkeypatch, capsys):
    def fail():
        raise OSError(28, "No space left on device", "/full/disk")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 1
    said = "error: No space left on device: /full/disk\n  to do: make room, then run again: finished work is kept\n"
    assert capsys.readouterr().err == said


def test_plan_prints_json(tmp_path):
    result = softalign("plan", "shapes", "--store", "store", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["stages"][0]["label"] == "curate"
    assert plan["store"] == str(tmp_path / "store")


def test_geneval_prompts_are_the_official_file(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the same again is no other file
        assert command(monkeypatch, "geneval", "prompts", "--out", "p.jsonl") == 0
    (tmp_path / "own.jsonl").write_text("my own\n")
    assert command(monkeypatch, "geneval", "prompts", "--out", "own.jsonl") == 2
    assert (tmp_path / "own.jsonl").read_text() == "my own\n"
    digest = hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()
    assert digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def test_plan_shows_what_cannot_run_here_and_warns_on_standard_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = ["--set", "evaluate.suite=geneval", "--set", "backbone={family: sd15, model: ./nowhere}"]
    assert command(monkeypatch, "plan", "shapes-unet", *overrides, "--json") == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert [row["state"] for row in printed["stages"]] == ["run", *["blocked"] * 7]
    assert "backbone.model" in printed["stages"][1]["reason"]
    assert err == "".join(f"warning: {text}\n" for text in printed["warnings"])
    assert printed["warnings"]
    assert command(monkeypatch, "plan", "shapes-unet", *overrides) == 0
    assert "to do (encode, train, " in capsys.readouterr().out
    assert command(monkeypatch, "curate", "shapes-unet", *overrides, "--set", "curation.sources=[]") == 2


@pytest.mark.parametrize(
    ("arguments", "said"), [(["rnu"], "Did you mean 'run'?"), (["run", "--stroe", "x"], "--store")]
)
def test_a_misspelt_command_or_option_is_told_which_was_meant(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("store", ["afile", "afile/below"])
def test_a_store_that_is_a_file_is_refused_at_once(tmp_path, monkeypatch, capsys, store):
    (tmp_path / "afile").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["softalign", "plan", "shapes", "--store", store])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert (stop.value.code, "taken by a file" in capsys.readouterr().err) == (2, True)
