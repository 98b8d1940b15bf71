"""Who may import whom, and what starting up may load."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "mlflow", "diffusers", "transformers", "scipy", "pyarrow")


def run_python(code, *flags):
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def loaded_after(code, names):
    """Return which of the named packages a fresh interpreter has loaded after running some code."""
    report = f"import sys\n{code}\nprint('LOADED', *[name for name in {names!r} if name in sys.modules])"
    result = run_python(report)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split()[1:]


def test_import_contracts_hold():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_broken_contract_is_found(tmp_path):
    """The contracts can fail: a library module that imports prefect is reported."""
    package = tmp_path / "softalign"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text("import prefect\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["softalign"]\ninclude_external_packages = true\n'
        '[[tool.importlinter.contracts]]\nname = "no prefect"\ntype = "forbidden"\n'
        'source_modules = ["softalign"]\nforbidden_modules = ["prefect"]\n'
    )
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1
    assert "softalign.errors -> prefect" in result.stdout


def test_importing_the_packages_loads_nothing_heavy():
    packages = (
        "softalign, flows, tasks, softalign.cli, softalign.stages.run, softalign.stages.chain, "
        "softalign.adapters, softalign.backbones"
    )
    assert loaded_after(f"import {packages}", (*HEAVY, "prefect")) == []


def test_the_flows_load_prefect_only():
    modules = "flows.curate, flows.train, flows.evaluate, flows.register, flows.retrain"
    assert loaded_after(f"import {modules}", (*HEAVY, "prefect")) == ["prefect"]


def test_help_loads_nothing_heavy():
    code = (
        "sys.argv = ['softalign', '--help']\n"
        "from softalign.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert loaded_after(code, (*HEAVY, "prefect")) == []


def test_the_probe_sees_what_is_loaded():
    assert loaded_after("import json.tool, scipy", HEAVY) == ["scipy"]
