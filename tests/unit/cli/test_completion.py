"""What a shell completes, and that completing loads nothing heavy."""

import os
import subprocess
import sys

import pytest

from softalign.cli.completion import override_words, recipe_words


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shy.yaml", "notes.txt", ".hidden.yaml", "sub/inner.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")


@pytest.mark.parametrize(
    ("incomplete", "words"),
    [
        ("sha", ["shapes", "shapes-sd3"]),
        ("shy", ["shy.yaml"]),
        ("su", ["sub/"]),
        ("sub/", ["sub/inner.yml"]),
        ("n", []),
    ],
)
def test_recipes_are_names_and_files(incomplete, words):
    assert recipe_words(incomplete)[: len(words)] == words


@pytest.mark.parametrize(
    ("incomplete", "words"),
    [
        ("tra", ["train."]),
        ("train.opt", ["train.optimizer."]),
        ("train.optimizer.l", ["train.optimizer.learning_rate="]),
        ("register.n", ["register.name="]),
        ("nothing", []),
    ],
)
def test_overrides_are_completed_level_by_level(incomplete, words):
    assert override_words(incomplete) == words


def test_a_shell_gets_words_without_heavy_libraries():
    program = (
        "import atexit, sys; from softalign.cli import main; sys.argv = ['softalign']; "
        "atexit.register(lambda: sys.stderr.write(' '.join({'torch', 'mlflow', 'prefect'} & set(sys.modules)))); main()"
    )
    asked = {"_SOFTALIGN_COMPLETE": "complete_bash", "COMP_WORDS": "softalign run sha", "COMP_CWORD": "2"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **asked}, check=False
    )
    assert result.stdout.split()[:2] == ["shapes", "shapes-sd3"]
    assert result.stderr == ""
