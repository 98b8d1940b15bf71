"""Every command starts where Unix has no part in Python: a process that has neither ``fcntl`` nor its like.

A stand-in for Windows: the modules and signals it lacks are taken away. Not its file system.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BEGINNING = """
import builtins, importlib, json, pkgutil, signal, sys, warnings
from pathlib import Path

UNIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
OURS = {"softalign", "tasks", "flows", "__main__"}
import_module = builtins.__import__

def refuse(name, globals=None, locals=None, fromlist=(), level=0):
    importer = str((globals or {}).get("__name__")).partition(".")[0]
    # others choose by sys.platform, which is still Linux here; fcntl is for nobody but Python's own library
    is_refused = importer in OURS or (name == "fcntl" and importer not in sys.stdlib_module_names)
    if not level and name in UNIX_ONLY and is_refused:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return import_module(name, globals, locals, fromlist, level)

builtins.__import__ = refuse
del signal.SIGHUP, signal.pthread_sigmask
warnings.filterwarnings("ignore", "only soft file lock is available")
"""
EVERYTHING = """
import softalign, tasks, flows
from softalign.cli.app import app, main
from typer.main import get_command
from typer.testing import CliRunner

def commands_of(group, before=()):
    for name, command in group.commands.items():
        yield from commands_of(command, (*before, name)) if hasattr(command, "commands") else [(*before, name)]

shown = sorted(commands_of(get_command(app)))
for words in shown:
    if list(words) == ["deploy"]:  # the flows' own command takes this process's place
        continue
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, (words, result.output)
modules = [found.name for package in (softalign, tasks, flows)
           for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(shown), "commands,", len(modules), "modules")

def softalign(*arguments):
    sys.argv = ["softalign", *arguments, "--store", "store"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, arguments

from softalign.registry import registry_of_store
from softalign.registry.connection import registry_client
from softalign.store.store import Store

described = json.loads((VERSION / "version.json").read_text())
with registry_client(registry_of_store(Store("store"))) as client:
    client.create_registered_model(described["name"])
    client.create_model_version(described["name"], (VERSION / "model").as_uri(), tags=described["tags"])
softalign("pull", "stored/1", "--to", "pulled")
softalign("curate", "shapes", "--set", "curation.sources=[{type: shapes, num_scenes: 9}]")
softalign("plan", "shapes")
"""


def run_python(code, cwd):
    command = [sys.executable, "-c", BEGINNING + code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_every_command_starts_every_module_loads_and_some_commands_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = f"sys.path.insert(0, {str(ROOT)!r})\nVERSION = Path({str(ROOT / 'tests/artifacts/0001/registry')!r})"
    result = run_python(places + EVERYTHING, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "pulled" / "soft_tokens.safetensors").is_file()
    first, *plan = result.stdout.splitlines()
    num_commands, _, num_modules, _ = first.split()
    assert int(num_commands) >= 17 and int(num_modules) >= 150
    assert any(line.split()[:2] == ["curate", "run"] for line in plan), plan


def test_the_stand_in_refuses(tmp_path):
    result = run_python("import fcntl", tmp_path)
    assert "No module named 'fcntl'" in result.stderr
