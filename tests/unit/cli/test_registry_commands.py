"""What the registry's commands say, beside what they print for programs."""

import sys

import pytest

from softalign.cli import app
from tests.fake_registry import FakeRegistry, serving, write_adapter


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        return stopped.value.code or 0, *capfd.readouterr()

    return command


def test_pull_says_which_version_an_alias_was(run, tmp_path):
    with serving(FakeRegistry("served", [write_adapter(tmp_path / "version", 1.0)])) as uri:
        options = ("--tracking-uri", uri, "--to", "out")
        code, out, err = run("pull", "served@champion", *options)
        assert (code, out) == (0, "out\n") and "served/1\n" in err
        code, out, err = run("pull", "served@champion", *options, "--offline")
        assert (code, out) == (0, "out\n") and "served/1, as it was when the registry was last asked" in err


@pytest.mark.parametrize(
    ("name", "fix"), [("cats/3", "softalign promote cats --version 3"), ("cats@challenger", "softalign promote cats\n")]
)
def test_a_version_is_promoted_by_its_number(run, name, fix):
    code, _, err = run("promote", name)
    assert code == 2 and fix in err


def test_the_stores_own_registry_is_named_whole(run, tmp_path):
    code, out, _ = run("ui", "--no-open", "--store", "store")
    assert code == 0 and f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/store/mlflow.db" in out
