"""Backup, total loss, restore: history, champion, a pull and Prefect's runs are as before."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request

from softalign.registry import history, pull
from softalign.store.store import Store
from tests.integration.conftest import ROOT
from tests.registry_samples import register_sample

NAME = "softalign-saved"


def backup(stack, command, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "infra/backup.py"), command, str(folder)],
        env={**os.environ, "SOFTALIGN_STACK": str(stack.state)},
        capture_output=True,
        text=True,
        check=False,
    )


def deployments(stack):
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{stack.exports['PREFECT_API_URL']}/deployments/filter", b"{}", {"Content-Type": "application/json"}
        )
    ) as answer:
        return answer.read()


def test_what_was_saved_is_there_again_after_everything_is_lost(stack, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name, value in stack.exports.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    uri = stack.exports["MLFLOW_TRACKING_URI"]
    store = Store(f"{stack.exports['SOFTALIGN_STORE']}/{tmp_path.name}")
    registered = register_sample(store, 0.3, seed=7, tracking_uri=uri, name=NAME)
    before = history(NAME, uri)
    files = contents(pull(f"{NAME}@champion", tmp_path / "before", tracking_uri=uri))
    known = deployments(stack)

    refused = backup(stack, "restore", tmp_path / "saved")
    assert (refused.returncode, "is no backup" in refused.stderr) == (1, True)
    saved = backup(stack, "save", tmp_path / "saved")
    assert saved.returncode == 0, saved.stderr
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0
    assert "name a new folder" in backup(stack, "save", tmp_path / "saved").stderr
    assert "move it away first" in backup(stack, "restore", tmp_path / "saved").stderr

    exports = dict(stack.exports)
    assert stack("down").returncode == 0
    for path in stack.state.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored = backup(stack, "restore", tmp_path / "saved")
    assert restored.returncode == 0, restored.stderr
    stack.up()

    assert stack.exports == exports
    assert history(NAME, uri) == before
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "fresh cache"))
    assert contents(pull(f"{NAME}@champion", tmp_path / "after", tracking_uri=uri)) == files
    found = store.find(type(registered), registered.stage_key)
    assert found.digest == registered.digest
    assert names(deployments(stack)) == names(known)


def names(answer):
    return sorted(one["name"] for one in json.loads(answer))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
