"""Every command starts where Unix has no part in Python: a process that has neither ``fcntl`` nor its like.

A stand-in for Windows: the modules and signals it lacks are taken away. Not its file system.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BEGINNING = """
import builtins, importlib, pkgutil, signal, sys, warnings

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
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, (words, result.output)
modules = [found.name for package in (softalign, tasks, flows)
           for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(shown), "commands,", len(modules), "modules")
sys.argv = ["softalign", "plan", "shapes", "--store", "store"]
main()
"""


def run_python(code, cwd):
    command = [sys.executable, "-c", BEGINNING + code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_every_command_starts_and_every_module_loads(tmp_path):
    result = run_python(f"sys.path.insert(0, {str(ROOT)!r})" + EVERYTHING, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    first, *plan = result.stdout.splitlines()
    num_commands, _, num_modules, _ = first.split()
    assert int(num_commands) >= 17 and int(num_modules) >= 150
    assert any(line.split()[:2] == ["curate", "run"] for line in plan), plan


def test_the_stand_in_refuses(tmp_path):
    result = run_python("import fcntl", tmp_path)
    assert "No module named 'fcntl'" in result.stderr
