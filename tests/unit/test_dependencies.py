"""What pyproject.toml declares is what the packages import, and each extra's modules stay within it."""

import ast
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fake_registry import FakeRegistry, serving, write_adapter

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_ANOTHER = {"pydantic-core": "pydantic", "requests": "mlflow", "sqlalchemy": "mlflow"}
"""Imported to name their errors; they are parts of a dependency."""
NOT_IMPORTED = {
    "rich": "Typer prints with it",
    "fastapi": "the version that Prefect's server works with",
    "s3fs": "fsspec opens s3:// with it",
}


def declared(extra=None):
    requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(*folders):
    """Return which distributions the code below some folders imports, in functions too."""
    names = set()
    for path in (found for folder in folders for found in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    owners = packages_distributions()
    others = names - sys.stdlib_module_names - {"softalign", "tasks", "flows"}
    return {canonicalize_name(owners[name][0]) for name in others}


def test_what_is_imported_is_declared():
    found = {OF_ANOTHER.get(name, name) for name in imported("softalign", "tasks", "flows")}
    found = {"mlflow" if name.startswith("mlflow") else name for name in found}
    assert found <= declared() | declared("pipeline") | declared("ray")


def test_what_is_declared_is_imported():
    found = imported("softalign", "tasks", "flows") | NOT_IMPORTED.keys()
    assert declared() - found == set()
    assert {name for name in declared("pipeline") - found if not name.startswith("mlflow")} == set()


def closure(*extras):
    """Return what an installation with some extras brings, as installed here."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    todo, found = [Requirement(text) for text in texts], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        with suppress(PackageNotFoundError):  # of another platform, or optional
            own = [Requirement(text) for text in requires(name) or ()]
            if name not in found or requirement.extras:
                found.add(name)
                todo += [other for other in own if _is_needed(other, requirement.extras)]
    return found


def _is_needed(requirement, extras):
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def run_with(code, *extras, cwd):
    """Run code in a process that finds only what an installation with these extras would bring."""
    present = closure(*extras)
    hidden = [
        name
        for name, owners in packages_distributions().items()
        if name not in {"softalign", "tasks", "flows"} and not {canonicalize_name(owner) for owner in owners} & present
    ]
    beginning = f"""
import sys
from importlib.machinery import PathFinder

class Installed:
    find_distributions = PathFinder.find_distributions
    invalidate_caches = PathFinder.invalidate_caches

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else PathFinder.find_spec(name, path, target)

sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {str(ROOT)!r})

def softalign(*arguments):
    from softalign.cli import main
    sys.argv = ["softalign", *arguments]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
"""
    command = [sys.executable, "-c", beginning + code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


STORED = ROOT / "tests" / "artifacts" / "0001"
CORE = f"""
assert softalign("geneval", "prompts", "--out", "prompts.jsonl") == 0
shown = ["generate", "none", "a photo of three circles", "--base", "shapes", "--num-inference-steps", "1"]
assert softalign(*shown, "--out", "images") == 0
edit = ["edit", "images/prompt-000-0.png", "--from", "three circles", "--to", "two circles", "--base", "shapes"]
assert softalign(*edit, "--num-inference-steps", "1", "--n-max", "1") == 0

from diffusers import StableDiffusionPipeline
from softalign import load_soft_tokens
pipe = StableDiffusionPipeline.from_pretrained({str(STORED / "model")!r}, dtype=__import__("torch").float32)
load_soft_tokens(pipe, {str(STORED / "store" / "train" / "trained")!r})
pipe("a photo", height=32, width=32, num_inference_steps=1).images[0].save("images/tokens.png")

assert softalign("plan", "shapes") == 2
assert softalign("history", "softalign-shapes", "--tracking-uri", "http://127.0.0.1:9") == 2
"""
PULL = """
assert softalign("pull", "served/1", "--to", "out", "--tracking-uri", {uri!r}) == {code}
"""
REGISTRY = """
assert softalign("history", "softalign-shapes", "--tracking-uri", "http://127.0.0.1:9") == 1
"""


def test_the_core_generates_and_names_the_extra_that_is_missing(tmp_path):
    result = run_with(CORE, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        *("prompt-000-0.png", "prompt-000-0-edited.png", "tokens.png")
    }
    assert "needs the pipeline extra" in result.stderr
    assert "pip install 'softalign[registry]'" in result.stderr


def test_the_core_brings_no_registry_no_orchestrator_and_no_scipy():
    assert closure() & {"mlflow", "mlflow-skinny", "prefect", "scipy"} == set()
    assert closure("registry") & {"mlflow", "prefect", "scipy"} == set()


def test_the_slim_client_pulls_over_http_and_then_the_core_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    with serving(FakeRegistry("served", [write_adapter(tmp_path / "version", 1.0)])) as uri:
        without = run_with(PULL.format(uri=uri, code=2), cwd=tmp_path)
        result = run_with(PULL.format(uri=uri, code=0), "registry", cwd=tmp_path)
    assert without.returncode == 0 and "softalign[registry]" in without.stderr, without.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.rmtree(tmp_path / "out")
    again = run_with(PULL.format(uri=uri, code=0), cwd=tmp_path)  # nothing serves, no client is there: the cache is
    assert again.returncode == 0 and (tmp_path / "out" / "soft_tokens.safetensors").is_file(), again.stderr


def test_the_registry_extra_asks_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = run_with(REGISTRY, "registry", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "did not answer" in result.stderr
